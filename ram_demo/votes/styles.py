"""How answers look: their lists, headings and bold words, counted by the database, so that no text travels."""

from sqlalchemy import Connection, case, func, select

from ram_demo.votes.battles import SIDES
from ram_demo.votes.schema import ResponseRecord, VoteRecord

# Markdown, each mark at the start of a line but for bold, which has two.
MARKS = {
    "lists": ("\n- ", "\n* ", "\n+ ", *(f"\n{digit}. " for digit in range(1, 10))),
    "headings": ("\n# ", "\n## ", "\n### "),
    "bold": ("**",),
}


def styles(db: Connection) -> dict[str, tuple[int, ...]]:
    """{vote: how much of each of MARKS side A has, then side B}, of all turns together."""
    text = "\n" + ResponseRecord.text
    sums = [
        func.sum(case((ResponseRecord.side == side, sum(_count(text, mark) for mark in marks)), else_=0))
        for side in SIDES
        for marks in MARKS.values()
    ]
    query = select(VoteRecord.id, *sums).join(ResponseRecord, ResponseRecord.battle_id == VoteRecord.battle_id)
    return {vote: tuple(counts) for vote, *counts in db.execute(query.group_by(VoteRecord.id))}


def _count(text, mark: str):
    """How often `mark` is in `text`, in SQL that every database has."""
    return (func.length(text) - func.length(func.replace(text, mark, ""))) / len(mark)

"""What is written of a battle, its answers and its vote, whoever asks. Decides nothing: `store` does.

Works on a connection, in the transaction of who calls.
"""

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, insert, select

from ram_demo import __version__
from ram_demo.votes.battles import SIDES, Ballot, NewBattle, Turn, VoteRow
from ram_demo.votes.counting import Verdict, prompt_key
from ram_demo.votes.schema import BattleRecord, ResponseRecord, ReviewRecord, VoteRecord


def insert_battle(db: Connection, battle_id: str, new: NewBattle, **more: Any) -> None:
    """The row of a battle, without answers. more: what is known of it besides."""
    shown = {field.name: getattr(new, field.name) for field in fields(NewBattle)}
    columns = {"app_version": __version__, "prompt_key": prompt_key(new.prompt), **shown, **more}
    db.execute(insert(BattleRecord).values(id=battle_id, **columns))


def insert_turn(db: Connection, battle_id: str, number: int, turn: Turn) -> None:
    """The two answers of a turn."""
    shared = {"battle_id": battle_id, "turn": number, "prompt": turn.prompt}
    sides = [{**shared, "side": side, **vars(getattr(turn, side))} for side in SIDES]
    db.execute(insert(ResponseRecord), sides)


def insert_vote(
    db: Connection, vote_id: str, battle_id: str, choice: str, session: str, ballot: Ballot, **more: Any
) -> None:
    side, start, end = ballot.span or (None, None, None)
    columns = {"span_side": side, "span_start": start, "span_end": end, "reasons": list(ballot.reasons), **more}
    columns |= {"choice": choice, "session": session, "comment": ballot.comment}
    columns |= {"reading_seconds": ballot.reading_seconds}
    db.execute(insert(VoteRecord).values(id=vote_id, battle_id=battle_id, **columns))


def insert_review(db: Connection, vote_id: str, by: str, said: Verdict) -> None:
    db.execute(insert(ReviewRecord).values(vote_id=vote_id, by=by, counts=said.counts, why=said.why))


def add(db: Connection, rows: list[VoteRow]) -> int:
    """Votes given elsewhere, with their battles, but for those that are here already. Returns how many were new."""
    known = _known(db, rows)
    new = {row.battle_id: row for row in rows if not {row.id, row.battle_id} & known}
    new = {row.id: row for row in new.values()}  # the same vote twice in one file is one
    for row in new.values():
        told = {"app_version": row.app_version, "created_at": row.battle_created_at, "voted_at": row.created_at}
        insert_battle(db, row.battle_id, row.battle, state="voted", imported=True, **told)
        for number, turn in enumerate(row.battle.turns):
            insert_turn(db, row.battle_id, number, turn)
        insert_vote(db, row.id, row.battle_id, row.choice, row.battle.session, row.ballot, created_at=row.created_at)
        if row.why or not row.counts:
            insert_review(db, row.id, "rule", Verdict(row.counts, row.why))
    return len(new)


def _known(db: Connection, rows: list[VoteRow]) -> set[str]:
    """The ids of votes and of battles that are here already."""
    votes = select(VoteRecord.id).where(VoteRecord.id.in_([row.id for row in rows]))
    battles = select(BattleRecord.id).where(BattleRecord.id.in_([row.battle_id for row in rows]))
    return set(db.scalars(votes)) | set(db.scalars(battles))

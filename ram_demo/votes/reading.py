"""Votes read back: whole, one by one, or as columns for ratings. Changes nothing."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased, selectinload

from ram_demo.errors import UserError
from ram_demo.votes.battles import BASE, SIDES, Ballot, Battle, NewBattle, Response, Turn, VoteRow
from ram_demo.votes.schema import BattleRecord, ResponseRecord, ReviewRecord, VoteRecord


@dataclass(frozen=True)
class Columns:
    """Votes in columns of one length, oldest first. None stands for what is not known."""

    id: tuple[str, ...]
    created_at: tuple[datetime, ...]
    choice: tuple[str, ...]
    voter: tuple[str, ...]  # the session; a vote whose voter is unknown has one of its own
    kind: tuple[str, ...]
    blind: tuple[bool, ...]
    imported: tuple[bool, ...]
    category: tuple[str, ...]
    prompt: tuple[str, ...]
    a_label: tuple[str, ...]
    b_label: tuple[str, ...]
    a_tokens: tuple[int | None, ...]  # of all turns together
    b_tokens: tuple[int | None, ...]
    a_mean_kl: tuple[float | None, ...]  # nats, mean over the turns
    b_mean_kl: tuple[float | None, ...]
    a_gated_share: tuple[float | None, ...]  # mean over the turns
    b_gated_share: tuple[float | None, ...]
    counts: tuple[bool, ...]
    why: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id)


PAGE = 20  # votes with all their traces


def rows(db: Connection, only_counting: bool, after: VoteRow | None) -> list[VoteRow]:
    """A page of votes with their battles, oldest first (then by id): those next after that one, or the first."""
    # Loaded apart from the votes: a join would sort every trace before the first row is out.
    battles = selectinload(VoteRecord.battle).selectinload(BattleRecord.responses)
    query, counts, why = _reviewed(select(VoteRecord))
    query = query.add_columns(counts, why).options(battles).order_by(VoteRecord.created_at, VoteRecord.id)
    if only_counting:
        query = query.where(counts)
    if after is not None:
        same_moment = and_(VoteRecord.created_at == after.created_at, VoteRecord.id > after.id)
        query = query.where(or_(VoteRecord.created_at > after.created_at, same_moment))
    with Session(db) as session:
        return [_vote_row(*found) for found in session.execute(query.limit(PAGE))]


def newest(db: Connection, count: int, skip: int = 0) -> list[VoteRow]:
    """The newest votes with their battles, counting or not, after the first `skip` of them; the newest comes first."""
    battles = selectinload(VoteRecord.battle).selectinload(BattleRecord.responses)
    query, counts, why = _reviewed(select(VoteRecord))
    query = query.add_columns(counts, why).options(battles)
    query = query.order_by(VoteRecord.created_at.desc(), VoteRecord.id.desc()).limit(count).offset(skip)
    with Session(db) as session:
        return [_vote_row(vote, counting, reason) for vote, counting, reason in session.execute(query)]


def pair_counts(db: Connection) -> dict[tuple[str, str], int]:
    """How many votes there are on each pair of labels, (A, B) as they stood."""
    sides = _summaries().subquery()
    query = (
        select(sides.c.a_label, sides.c.b_label, func.count())
        .select_from(VoteRecord)
        .join(sides, sides.c.battle_id == VoteRecord.battle_id)
        .group_by(sides.c.a_label, sides.c.b_label)
    )
    return {(a, b): count for a, b, count in db.execute(query)}


def ballots(
    db: Connection,
    *,
    only_counting: bool = True,
    blind_only: bool = False,
    kinds: tuple[str, ...] | None = None,
    category: str | None = None,
    imported: bool | None = None,
    since: datetime | None = None,
) -> Columns:
    """Votes as columns, cheap for a million of them: no text of an answer and no trace is read.

    kinds: those alone, or all. imported: True or False for those alone, None for both. since: given from then on.
    """
    sides = _summaries().subquery()
    unknown_voter = case((VoteRecord.session == "", VoteRecord.id), else_=VoteRecord.session)
    battle = BattleRecord
    query, counts, why = _reviewed(
        select(VoteRecord.id, VoteRecord.created_at, VoteRecord.choice, unknown_voter)
        .select_from(VoteRecord)
        .join(battle)
        .join(sides, sides.c.battle_id == battle.id)
    )
    summary = (sides.c[field.name] for field in fields(Columns) if field.name in sides.c)
    query = query.add_columns(battle.kind, battle.blind, battle.imported, battle.category, battle.prompt, *summary)
    query = query.add_columns(counts, why).order_by(VoteRecord.created_at, VoteRecord.id)
    if only_counting:
        query = query.where(counts)
    if blind_only:
        query = query.where(battle.blind)
    if kinds is not None:
        query = query.where(battle.kind.in_(kinds))
    if category is not None:
        query = query.where(battle.category == category)
    if imported is not None:
        query = query.where(battle.imported == imported)
    if since is not None:
        query = query.where(VoteRecord.created_at >= since)
    columns = list(zip(*db.execute(query).all(), strict=True))
    return Columns(*columns or [()] * len(fields(Columns)))


def battle(db: Connection, battle_id: str) -> Battle:
    """A battle that has answers. Raises UserError for one that is not here or has none."""
    with Session(db) as session:
        record = session.get(BattleRecord, battle_id, options=[selectinload(BattleRecord.responses)])
        if record is None or not record.responses:
            raise UserError(f"Unknown battle {battle_id!r}: there is nothing to show.")
        return _battle(record)


def _reviewed(query: Select) -> tuple[Select, object, object]:
    """`query` over votes, joined to the review that decides each: (query, whether it counts, why).

    The owner's newest word decides; where the owner said nothing, the rules' newest does; where nobody did, it counts.
    """
    authority = case((ReviewRecord.by == "owner", 1), else_=0)
    rank = func.row_number().over(
        partition_by=ReviewRecord.vote_id, order_by=(authority.desc(), ReviewRecord.id.desc())
    )
    newest = select(ReviewRecord.vote_id, ReviewRecord.counts, ReviewRecord.why, rank.label("rank")).subquery()
    decides = aliased(newest)
    query = query.outerjoin(decides, and_(decides.c.vote_id == VoteRecord.id, decides.c.rank == 1))
    return query, func.coalesce(decides.c.counts, True), func.coalesce(decides.c.why, "")


def _summaries() -> Select:
    """One row a battle: the labels, and what is known of its answers. Served by `ix_response_summary` alone."""
    r = ResponseRecord
    label = case((r.aligners == "", BASE), else_=r.aligners)

    def of(side: str, value) -> object:
        return case((r.side == side, value))

    columns = []
    for side in SIDES:
        columns += [
            func.max(of(side, label)).label(f"{side}_label"),
            func.sum(of(side, r.tokens)).label(f"{side}_tokens"),
            func.avg(of(side, r.mean_kl)).label(f"{side}_mean_kl"),
            func.avg(of(side, r.gated_share)).label(f"{side}_gated_share"),
        ]
    return select(r.battle_id, *columns).group_by(r.battle_id)


def _vote_row(vote: VoteRecord, counts: bool, why: str) -> VoteRow:
    span = (vote.span_side, vote.span_start, vote.span_end) if vote.span_side else None
    return VoteRow(
        id=vote.id,
        created_at=vote.created_at,
        choice=vote.choice,
        ballot=Ballot(tuple(vote.reasons), vote.comment, span, vote.reading_seconds),
        counts=counts,
        why=why,
        battle_id=vote.battle.id,
        battle_created_at=vote.battle.created_at,
        app_version=vote.battle.app_version,
        imported=vote.battle.imported,
        battle=_battle(vote.battle),
    )


def _battle(record: BattleRecord) -> Battle:
    shared = {field.name: getattr(record, field.name) for field in fields(NewBattle)}
    sides = {(answer.turn, answer.side): answer for answer in record.responses}
    turns = [
        Turn(sides[number, "a"].prompt, *(_response(sides[number, side]) for side in SIDES))
        for number in range(len(sides) // 2)
    ]
    return Battle(**shared, a=turns[0].a, b=turns[0].b, later=tuple(turns[1:]))


def _response(record: ResponseRecord) -> Response:
    return Response(**{field.name: getattr(record, field.name) for field in fields(Response)})

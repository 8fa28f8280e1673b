"""The tables: a battle, its responses (two a turn), its one vote, and what was later said of that vote.

Knows nothing of files, of SQLite or of who asks. What people query has a typed column of its own; only what replays a
battle whole (the settings, the traces) is JSON. A change here needs a step in `migrations/versions`; a test compares.
"""

from datetime import datetime, timezone
from typing import Any, ClassVar
from uuid import uuid4

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ram_demo.votes.battles import CHOICES, DONE, KINDS, SIDES
from ram_demo.votes.columns import CleanText, JsonText, UtcDateTime, one_of

STATES = ("created", "running", "ended", "voted", "revealed", "expired")
AUTHORITIES = ("rule", "owner")


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess."""
    return uuid4().hex


def now() -> datetime:
    return datetime.now(timezone.utc)


class Record(DeclarativeBase):
    """What every table shares: how a Python type is kept, and how a constraint is named."""

    type_annotation_map: ClassVar = {
        str: CleanText,
        dict[str, Any]: JsonText,
        list[str]: JsonText,
        datetime: UtcDateTime,
    }
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class BattleRecord(Record):
    """One conversation with two sides, shown to one browser session, and how far it has come."""

    __tablename__ = "battle"
    __table_args__ = (Index(None, "prompt_key"), Index(None, "state", "created_at"))

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(default=now)
    state: Mapped[str] = mapped_column(one_of("state", STATES))
    ended_at: Mapped[datetime | None]  # of the newest turn
    voted_at: Mapped[datetime | None]
    revealed_at: Mapped[datetime | None]
    kind: Mapped[str] = mapped_column(one_of("kind", KINDS))
    blind: Mapped[bool]
    imported: Mapped[bool] = mapped_column(default=False)  # it was shown elsewhere
    session: Mapped[str]
    prompt: Mapped[str]  # of the first turn
    prompt_key: Mapped[str]
    category: Mapped[str]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    mode: Mapped[str]
    proposal: Mapped[str]
    proposal_revision: Mapped[str]
    app_version: Mapped[str]
    settings: Mapped[dict[str, Any]]

    responses: Mapped[list["ResponseRecord"]] = relationship(order_by="(ResponseRecord.turn, ResponseRecord.side)")


class ResponseRecord(Record):
    """One side of one turn of a battle. Unknown numbers are null: of an imported response few are known."""

    __tablename__ = "response"
    __table_args__ = (
        UniqueConstraint("battle_id", "side", "turn"),
        # All that ratings ask of a response, so that they never read past its text and trace.
        Index("ix_response_summary", "battle_id", "side", "turn", "aligners", "tokens", "mean_kl", "gated_share"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    battle_id: Mapped[str] = mapped_column(ForeignKey("battle.id"))
    side: Mapped[str] = mapped_column(one_of("side", SIDES))
    turn: Mapped[int]
    lane: Mapped[str]
    aligners: Mapped[str]
    aligner_revision: Mapped[str]
    done: Mapped[str | None] = mapped_column(one_of("done", DONE))
    tokens: Mapped[int | None]
    tokens_per_s: Mapped[float | None]
    first_token_ms: Mapped[float | None]
    gated_share: Mapped[float | None]
    mean_kl: Mapped[float | None]
    prompt: Mapped[str]  # of this turn
    text: Mapped[str]
    trace: Mapped[dict[str, Any]]


class VoteRecord(Record):
    """What the session thought of its battle: at most one a battle, and never changed."""

    __tablename__ = "vote"
    __table_args__ = (
        UniqueConstraint("battle_id"),
        Index(None, "created_at", "id"),
        Index(None, "session", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    battle_id: Mapped[str] = mapped_column(ForeignKey("battle.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    choice: Mapped[str] = mapped_column(one_of("choice", CHOICES))
    session: Mapped[str]
    reasons: Mapped[list[str]] = mapped_column(default=list)
    comment: Mapped[str] = mapped_column(default="")
    span_side: Mapped[str | None] = mapped_column(one_of("span_side", SIDES))
    span_start: Mapped[int | None]  # characters of that side's last answer
    span_end: Mapped[int | None]
    reading_seconds: Mapped[float | None]

    battle: Mapped[BattleRecord] = relationship()


class ReviewRecord(Record):
    """Whether a vote counts, and why. Only ever added to: the owner's newest word decides, else the rules' newest."""

    __tablename__ = "review"

    id: Mapped[int] = mapped_column(primary_key=True)  # a later one is greater
    vote_id: Mapped[str] = mapped_column(ForeignKey("vote.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    by: Mapped[str] = mapped_column(one_of("by", AUTHORITIES))
    counts: Mapped[bool]
    why: Mapped[str]


class SaltRecord(Record):
    """The one random salt that hides who voted in what is exported."""

    __tablename__ = "salt"

    value: Mapped[str] = mapped_column(primary_key=True)

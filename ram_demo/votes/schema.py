"""The three tables: a battle, its two responses, its one vote. Knows nothing of files, of SQLite or of who asks.

What people query has a typed column of its own. Only what replays a battle whole (the settings, the traces) is JSON.
"""

import json
from datetime import datetime, timezone
from typing import Any, ClassVar
from uuid import uuid4

from sqlalchemy import BigInteger, DateTime, Enum, ForeignKey, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

CHOICES = ("a", "b", "tie", "both_bad")
SIDES = ("a", "b")
DONE = ("eos", "length", "stopped")


def clean_text(text: str) -> str:
    """`text` as any database can hold it: lone surrogates and NUL become U+FFFD, a split surrogate pair is joined.

    SQLite cannot encode the first and PostgreSQL refuses the second.
    """
    return (
        text.encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
        .replace("\0", "\N{REPLACEMENT CHARACTER}")
    )


class CleanText(TypeDecorator[str]):
    """Text that passes `clean_text` on its way in."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect) -> str | None:
        return None if value is None else clean_text(value)


class JsonText(TypeDecorator[dict]):
    """A dict kept as strict JSON text (a NaN raises ValueError). Tuples come back as lists."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: dict | None, dialect) -> str:
        # Unescaped, so that clean_text sees the surrogates themselves. NUL is always escaped, and so survives here.
        return clean_text(json.dumps(value, ensure_ascii=False, allow_nan=False))

    def process_result_value(self, value: str, dialect) -> dict:
        return json.loads(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides. SQLite forgets the zone, PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime, dialect) -> datetime:
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone: {value}")
        return value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime, dialect) -> datetime:
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def new_id() -> str:
    """32 hexadecimal digits that nobody can guess."""
    return uuid4().hex


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _one_of(name: str, values: tuple[str, ...]) -> Enum:
    """Text with a CHECK constraint, the same in every database."""
    return Enum(*values, name=name, native_enum=False, create_constraint=True)


class Record(DeclarativeBase):
    """What every table shares: how a Python type is kept."""

    type_annotation_map: ClassVar = {str: CleanText, dict[str, Any]: JsonText, datetime: UtcDateTime}


class BattleRecord(Record):
    """One prompt, shown with two responses to one browser session."""

    __tablename__ = "battle"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    created_at: Mapped[datetime] = mapped_column(default=_now)
    prompt: Mapped[str]
    session: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    mode: Mapped[str]
    settings: Mapped[dict[str, Any]]
    proposal: Mapped[str]
    proposal_revision: Mapped[str]
    app_version: Mapped[str]

    responses: Mapped[list["ResponseRecord"]] = relationship(order_by="ResponseRecord.side")


class ResponseRecord(Record):
    """One side of a battle."""

    __tablename__ = "response"
    __table_args__ = (UniqueConstraint("battle_id", "side"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    battle_id: Mapped[str] = mapped_column(ForeignKey("battle.id"))
    side: Mapped[str] = mapped_column(_one_of("side", SIDES))
    lane: Mapped[str]
    aligners: Mapped[str]
    aligner_revision: Mapped[str]
    text: Mapped[str]
    done: Mapped[str] = mapped_column(_one_of("done", DONE))
    tokens: Mapped[int]
    tokens_per_s: Mapped[float]
    first_token_ms: Mapped[float]
    gated_share: Mapped[float | None]
    mean_kl: Mapped[float | None]
    trace: Mapped[dict[str, Any]]


class VoteRecord(Record):
    """What the session thought of its battle: at most one a battle."""

    __tablename__ = "vote"

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    battle_id: Mapped[str] = mapped_column(ForeignKey("battle.id"), unique=True)
    choice: Mapped[str] = mapped_column(_one_of("choice", CHOICES))
    session: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=_now)

    battle: Mapped[BattleRecord] = relationship()

"""How a value is kept in a column: text, JSON, moments, one of a few words. Knows nothing of tables.

The same value comes back from every database: what SQLite forgets and what PostgreSQL refuses is mended on the way in.
"""

import json
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import DateTime, Enum, Text, TypeDecorator


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


class JsonText(TypeDecorator[Any]):
    """A dict or list kept as strict JSON text (a NaN raises ValueError). Tuples come back as lists."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect) -> str:
        # Unescaped, so that clean_text sees the surrogates themselves. NUL is always escaped, and so survives here.
        return clean_text(json.dumps(value, ensure_ascii=False, allow_nan=False))

    def process_result_value(self, value: str, dialect) -> Any:
        return json.loads(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides. SQLite forgets the zone, PostgreSQL answers in its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone: {value}")
        return value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def one_of(name: str, values: tuple[str, ...]) -> Enum:
    """Text with a CHECK constraint, the same in every database."""
    return Enum(*values, name=name, native_enum=False, create_constraint=True)

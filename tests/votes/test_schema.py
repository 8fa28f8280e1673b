from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from ram_demo.votes.columns import UtcDateTime, clean_text
from ram_demo.votes.schema import Record

ANY_TEXT = st.text(st.characters())  # hypothesis leaves surrogates out unless they are asked for
HALVES = st.text(st.sampled_from("x\0\ud83d\ude00\ud800é"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\ud800b", "a�b"),
        ("\udc00", "�"),
        ("\ud800\ud800", "��"),
        ("\ud83d\ude00", "😀"),
        ("a\0b", "a�b"),
        ("\ufeff\u202eabc 😀", "\ufeff\u202eabc 😀"),
    ],
)
def test_clean_text_by_hand(text, kept):
    assert clean_text(text) == kept


@given(HALVES)
def test_clean_text_can_always_be_encoded(text):
    clean = clean_text(text)
    assert "\0" not in clean
    assert clean.encode("utf-8").decode("utf-8") == clean


@given(ANY_TEXT.filter(lambda text: "\0" not in text and text.isprintable()))
def test_clean_text_leaves_sound_text_alone(text):
    assert clean_text(text) == text


def test_moments_are_aware_and_in_utc_whatever_the_database_answers():
    kept, noon = UtcDateTime(), datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
    paris = noon.astimezone(timezone(timedelta(hours=1)))
    assert kept.process_bind_param(paris, None).isoformat() == "2026-01-02T12:00:00+00:00"
    assert kept.process_result_value(paris, None).isoformat() == "2026-01-02T12:00:00+00:00"
    assert kept.process_result_value(datetime(2026, 1, 2, 12), None).isoformat() == "2026-01-02T12:00:00+00:00"
    with pytest.raises(ValueError, match="without a time zone"):
        kept.process_bind_param(datetime(2026, 1, 2, 12), None)


def test_postgresql_understands_the_tables():
    ddl = {
        name: str(CreateTable(table).compile(dialect=postgresql.dialect()))
        for name, table in Record.metadata.tables.items()
    }
    assert set(ddl) == {"battle", "response", "vote", "review", "salt"}
    assert "seed BIGINT" in ddl["battle"]
    assert "created_at TIMESTAMP WITH TIME ZONE NOT NULL" in ddl["vote"]
    assert "CHECK (choice IN ('a', 'b', 'tie', 'both_bad'))" in ddl["vote"]
    assert "CHECK (done IN ('eos', 'length', 'stopped'))" in ddl["response"]

"""Battles and votes come back whole, and the tables refuse what cannot be, on SQLite and on PostgreSQL."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from json import JSONDecodeError
from threading import Barrier

import pytest
from sqlalchemy.exc import DataError, IntegrityError

import ram_demo
from ram_demo.errors import UserError
from ram_demo.votes import CHOICES

# What is kept


@pytest.mark.parametrize("choice", CHOICES)
def test_a_vote_comes_back_whole(store, battle, choice):
    before = datetime.now(timezone.utc)
    battle_id = store.record_battle(battle)
    store.vote(battle_id, choice, "browser-1")
    (row,) = store.rows()
    assert (row.battle, row.battle_id, row.choice) == (battle, battle_id, choice)
    assert row.app_version == ram_demo.__version__
    assert row.created_at.tzinfo == timezone.utc
    assert before <= row.battle_created_at <= row.created_at <= datetime.now(timezone.utc)


def test_what_people_query_has_columns(store, raw, battle):
    battle_id = store.record_battle(battle)
    store.vote(battle_id, "tie", "browser-1")
    assert raw("SELECT id, prompt, session, seed, mode, proposal FROM battle") == [
        (battle_id, "Why is the sky blue?", "browser-1", 9007199254740993, "product", "SmolLM2-135M-Instruct")
    ]
    assert raw("SELECT side, lane, aligners, done, tokens, gated_share FROM response ORDER BY side") == [
        ("a", "concise", "concise:1.0", "eos", 3, 0.25),
        ("b", "base", "", "length", 96, None),
    ]
    assert raw("SELECT battle_id, choice, session FROM vote") == [(battle_id, "tie", "browser-1")]


@pytest.mark.parametrize(
    "text",
    [
        "'); DROP TABLE vote;--",
        "<script>${alert(1)}{{x}}%s :name ?",
        "\u202eabc\u2066",
        "👩‍🚀 \ufeff\x1b",
        "a\r\nb\u2028c",
        "",
    ],
)
def test_hostile_text_comes_back_as_it_was(store, battle, text):
    hostile = replace(
        battle, prompt=text, session=text, settings={text: text}, a=replace(battle.a, text=text, lane=text)
    )
    store.vote(store.record_battle(hostile), "a", text)
    assert next(store.rows()).battle == hostile


def test_text_that_no_database_holds_is_mended(store, battle):
    broken = "a\ud83db\0"
    hostile = replace(battle, prompt=broken, session=broken, b=replace(battle.b, text=broken, trace={"text": broken}))
    store.vote(store.record_battle(hostile), "a", broken)
    (row,) = store.rows()
    assert row.battle.prompt == row.battle.session == row.battle.b.text == "a�b�"
    assert row.battle.b.trace == {"text": "a�b\0"}
    with pytest.raises(UserError, match="Unknown battle"):
        store.vote(broken, "a", broken)


def test_a_trace_that_is_not_json_is_a_defect_and_leaves_nothing(store, raw, battle):
    with pytest.raises(Exception, match="JSON compliant"):
        store.record_battle(replace(battle, b=replace(battle.b, trace={"kl": float("nan")})))
    assert raw("SELECT (SELECT count(*) FROM battle), (SELECT count(*) FROM response)") == [(0, 0)]


def test_rows_come_oldest_first_and_then_by_id(store, raw, battle):
    days = ["2026-01-02", "2026-01-01", "2026-01-02", "2025-12-31", "2026-01-01", "2026-01-02"]
    for day in days:
        battle_id = store.record_battle(battle)
        store.vote(battle_id, "a", "browser-1")
        raw(f"UPDATE vote SET created_at = '{day} 00:00:00.000000' WHERE battle_id = '{battle_id}'")
    rows = [(row.created_at.date().isoformat(), row.id) for row in store.rows()]
    assert rows == sorted(rows)
    assert [day for day, _ in rows] == sorted(days)
    assert store.count() == 6


def test_rows_are_read_as_they_are_asked_for_and_votes_go_on(store, raw, battle):
    ids = [store.record_battle(battle) for _ in range(60)]
    for battle_id in ids:
        store.vote(battle_id, "a", "browser-1")
    raw(f"UPDATE response SET trace = '{{' WHERE battle_id = '{ids[-1]}'")
    rows = store.rows()
    assert [row.battle_id for row in islice(rows, 10)] == ids[:10]
    store.vote(store.record_battle(battle), "b", "browser-1")
    with pytest.raises(JSONDecodeError):
        list(rows)


# Who may vote, and how often


def test_fifty_votes_at_once_count_once(store, raw, battle):
    battle_id = store.record_battle(battle)
    start = Barrier(50)

    def vote(number):
        start.wait()
        try:
            store.vote(battle_id, CHOICES[number % 4], "browser-1")
        except UserError as error:
            return str(error)
        return "accepted"

    with ThreadPoolExecutor(50) as threads:
        answers = Counter(threads.map(vote, range(50)))
    assert answers == {"accepted": 1, "This battle has its vote already: a battle is voted on once.": 49}
    assert raw("SELECT count(*) FROM vote") == [(1,)]


@pytest.mark.parametrize(
    ("battle_id", "choice", "session", "message"),
    [
        ("nobody", "a", "browser-1", "Unknown battle 'nobody'"),
        (None, "A", "browser-1", "Unknown choice 'A': choose one of a, b, tie, both_bad"),
        (None, "", "browser-1", "Unknown choice ''"),
        (None, "a", "browser-2", "only the session that ran it may vote"),
        (None, "a", "", "only the session that ran it may vote"),
    ],
)
def test_a_refused_vote_is_not_counted_and_spoils_nothing(store, battle, battle_id, choice, session, message):
    recorded = store.record_battle(battle)
    with pytest.raises(UserError, match=message):
        store.vote(battle_id or recorded, choice, session)
    assert store.count() == 0
    store.vote(recorded, "a", "browser-1")
    assert store.count() == 1


AGAIN = (
    "INSERT INTO vote (id, created_at, choice, session, reasons, comment, battle_id) "
    "SELECT 'x', created_at, choice, session, reasons, comment,"
)


@pytest.mark.parametrize(
    "sql",
    [
        f"{AGAIN} battle_id FROM vote",
        f"{AGAIN} 'nobody' FROM vote",
        "UPDATE vote SET choice = 'A'",
        "UPDATE battle SET state = 'open'",
        "UPDATE battle SET kind = 'arena'",
        "UPDATE response SET done = 'abandoned'",
        "UPDATE response SET side = 'c' WHERE side = 'a'",
        "UPDATE response SET side = 'a'",
        "DELETE FROM battle",
    ],
)
def test_the_tables_refuse_what_cannot_be(store, battle, sql):
    store.vote(store.record_battle(battle), "a", "browser-1")
    with pytest.raises((IntegrityError, DataError)), store._engine.begin() as db:
        db.exec_driver_sql(sql)


def test_a_lane_that_has_not_ended_is_no_battle(store, raw, battle):
    with pytest.raises(IntegrityError):
        store.record_battle(replace(battle, b=replace(battle.b, done="running")))
    assert raw("SELECT count(*) FROM battle") == [(0,)]

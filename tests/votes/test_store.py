import pickle
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import Pool

import ram_demo
from ram_demo.errors import StorageError, UserError
from ram_demo.votes import CHOICES, VoteStore


def raw(database, sql, *values):
    """What the standard library, and not the store, reads from or does to the file."""
    connection = sqlite3.connect(database)
    with connection:
        found = connection.execute(sql, values).fetchall()
    connection.close()
    return found


@pytest.fixture
def pragma():
    """Call it with a PRAGMA that every connection is to obey before its next use."""
    wanted = []

    def obey(connection, *_):
        for text in wanted:
            connection.execute(f"PRAGMA {text}")

    event.listen(Pool, "checkout", obey)
    yield wanted.append
    event.remove(Pool, "checkout", obey)


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


def test_what_people_query_has_columns(store, database, battle):
    battle_id = store.record_battle(battle)
    store.vote(battle_id, "tie", "browser-1")
    assert raw(database, "SELECT id, prompt, session, seed, mode, proposal FROM battle") == [
        (battle_id, "Why is the sky blue?", "browser-1", 9007199254740993, "product", "SmolLM2-135M-Instruct")
    ]
    assert raw(database, "SELECT side, lane, aligners, done, tokens, gated_share FROM response ORDER BY side") == [
        ("a", "concise", "concise:1.0", "eos", 3, 0.25),
        ("b", "base", "", "length", 96, None),
    ]
    assert raw(database, "SELECT battle_id, choice, session FROM vote") == [(battle_id, "tie", "browser-1")]


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


def test_a_trace_that_is_not_json_is_a_defect_and_leaves_nothing(store, database, battle):
    with pytest.raises(Exception, match="JSON compliant"):
        store.record_battle(replace(battle, b=replace(battle.b, trace={"kl": float("nan")})))
    assert raw(database, "SELECT (SELECT count(*) FROM battle), (SELECT count(*) FROM response)") == [(0, 0)]


def test_rows_come_oldest_first_and_then_by_id(store, database, battle):
    days = ["2026-01-02", "2026-01-01", "2026-01-02", "2025-12-31", "2026-01-01", "2026-01-02"]
    for day in days:
        battle_id = store.record_battle(battle)
        store.vote(battle_id, "a", "browser-1")
        raw(database, "UPDATE vote SET created_at = ? WHERE battle_id = ?", f"{day} 00:00:00.000000", battle_id)
    rows = [(row.created_at.date().isoformat(), row.id) for row in store.rows()]
    assert rows == sorted(rows)
    assert [day for day, _ in rows] == sorted(days)
    assert store.count() == 6


def test_rows_are_read_as_they_are_asked_for_and_votes_go_on(store, database, battle):
    ids = [store.record_battle(battle) for _ in range(60)]
    for battle_id in ids:
        store.vote(battle_id, "a", "browser-1")
    raw(database, "UPDATE response SET trace = '{' WHERE battle_id = ?", ids[-1])
    rows = store.rows()
    assert [row.battle_id for row in islice(rows, 10)] == ids[:10]
    store.vote(store.record_battle(battle), "b", "browser-1")
    with pytest.raises(JSONDecodeError):
        list(rows)


def test_the_store_keeps_everything_when_reopened(database, battle):
    for network_volume in (False, True, False):
        store = VoteStore(f"sqlite:///{database}", network_volume)
        store.vote(store.record_battle(battle), "a", "browser-1")
        store.close()
    assert raw(database, "SELECT count(*) FROM vote") == [(3,)]


# Who may vote, and how often


def test_fifty_votes_at_once_count_once(store, database, battle):
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
    assert raw(database, "SELECT count(*) FROM vote") == [(1,)]


def test_threads_take_turns_on_a_network_volume(database, battle):
    store = VoteStore(f"sqlite:///{database}", network_volume=True)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.vote(store.record_battle(battle), "a", "browser-1"), range(24)))
    assert store.count() == 24
    store.close()


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
    with pytest.raises(IntegrityError), store._engine.begin() as db:
        db.exec_driver_sql(sql)


def test_a_lane_that_has_not_ended_is_no_battle(store, database, battle):
    with pytest.raises(IntegrityError):
        store.record_battle(replace(battle, b=replace(battle.b, done="running")))
    assert raw(database, "SELECT count(*) FROM battle") == [(0,)]


# What the disk does


def test_a_commit_is_on_the_disk_and_keys_are_checked(database):
    store = VoteStore(f"sqlite:///{database}")
    with store._engine.connect() as db:
        found = [
            db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    store.close()


def test_a_network_volume_has_no_shared_memory_and_one_owner(database, battle):
    store = VoteStore(f"sqlite:///{database}", network_volume=True)
    store.vote(store.record_battle(battle), "a", "browser-1")
    assert not [path for path in database.parent.iterdir() if path.name.endswith(("-wal", "-shm"))]
    other = sqlite3.connect(database, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT count(*) FROM vote")
    store.close()
    assert other.execute("SELECT count(*) FROM vote").fetchall() == [(1,)]
    assert other.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
    other.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=f"Votes cannot be saved: the folder {tmp_path}/file/data cannot be written"):
        VoteStore(f"sqlite:///{tmp_path}/file/data/votes.sqlite3")


def test_a_folder_that_takes_no_file():
    with pytest.raises(StorageError, match=r"the folder /proc/self cannot be written \(unable to open"):
        VoteStore("sqlite:////proc/self/votes.sqlite3")


def test_a_database_that_is_read_only_is_found_when_opened(store, database):
    with pytest.raises(StorageError, match=f"the folder {database.parent} cannot be written .*readonly"):
        VoteStore(f"sqlite:///file:{database}?mode=ro&uri=true")


def not_saved(database, reason):
    message = f"The vote was NOT saved: the folder {database.parent} cannot be written ({reason})."
    return pytest.raises(StorageError, match=f"^{re.escape(message)}$")


def test_a_full_disk_says_so_and_loses_no_vote_that_was_confirmed(store, database, battle, pragma):
    ids = [store.record_battle(battle) for _ in range(60)]
    pragma("max_page_count = 1")  # no smaller than the file is now, says SQLite: what is left is the room in its pages
    waiting = list(ids)
    with not_saved(database, "database or disk is full"):
        while waiting:
            store.vote(waiting[0], "a", "browser-1")
            del waiting[0]
    with not_saved(database, "database or disk is full"):
        store.record_battle(replace(battle, prompt="why " * 5000))
    assert raw(database, "SELECT battle_id FROM vote ORDER BY created_at") == [
        (name,) for name in ids[: 60 - len(waiting)]
    ]
    assert raw(database, "SELECT count(*) FROM battle") == [(60,)]
    pragma("max_page_count = 1000000")
    store.vote(waiting[0], "a", "browser-1")
    assert store.count() == 61 - len(waiting)


def test_a_disk_that_turns_read_only_says_so(store, database, battle, pragma):
    battle_id = store.record_battle(battle)
    pragma("query_only = ON")
    with not_saved(database, "attempt to write a readonly database"):
        store.vote(battle_id, "a", "browser-1")
    with not_saved(database, "attempt to write a readonly database"):
        store.record_battle(battle)
    pragma("query_only = OFF")
    store.vote(battle_id, "a", "browser-1")
    assert raw(database, "SELECT (SELECT count(*) FROM battle), (SELECT count(*) FROM vote)") == [(1, 1)]


def test_a_database_that_another_holds_says_that_nothing_was_saved(store, database, battle, pragma):
    battle_id = store.record_battle(battle)
    pragma("busy_timeout = 0")
    other = sqlite3.connect(database)
    other.execute("BEGIN IMMEDIATE")
    with not_saved(database, "database is locked"):
        store.vote(battle_id, "a", "browser-1")
    other.close()
    store.vote(battle_id, "a", "browser-1")


def test_other_faults_are_raised_as_they_are(store, database, battle):
    battle_id = store.record_battle(battle)
    raw(database, "DROP TABLE vote")
    with pytest.raises(OperationalError, match="no such table"):
        store.vote(battle_id, "a", "browser-1")


VOTER = """
import pickle, sys
from ram_demo.votes import VoteStore

store = VoteStore(sys.argv[1], network_volume=sys.argv[2] == "network")
battle = pickle.load(sys.stdin.buffer)
while True:
    battle_id = store.record_battle(battle)
    store.vote(battle_id, "a", battle.session)
    print(battle_id, flush=True)
"""


@pytest.mark.parametrize("volume", ["local", "network"])
def test_a_vote_that_was_confirmed_survives_a_kill(database, battle, volume):
    confirmed = []
    for lines in (1, 5, 20):
        child = subprocess.Popen(
            [sys.executable, "-c", VOTER, f"sqlite:///{database}", volume],
            cwd=Path(ram_demo.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        child.stdin.write(pickle.dumps(battle))
        child.stdin.close()
        read = [child.stdout.readline().decode().strip() for _ in range(lines)]
        child.kill()
        read += child.stdout.read().decode().split()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        assert len(read) >= lines
        confirmed += read
        store = VoteStore(f"sqlite:///{database}", network_volume=volume == "network")
        kept = [row.battle_id for row in store.rows()]
        store.close()
        # Of each round one more may have been committed and not yet printed.
        assert set(confirmed) <= set(kept)
        assert raw(database, "PRAGMA integrity_check") == [("ok",)]

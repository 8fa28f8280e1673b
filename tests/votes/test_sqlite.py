"""What is SQLite's own: its file, its journal, its disk."""

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import Pool

from ram_demo.errors import StorageError
from ram_demo.votes import VoteStore


def raw(database, sql, *values):
    """What the standard library, and not the store, reads from or does to the file."""
    connection = sqlite3.connect(database)
    with connection:
        found = connection.execute(sql, values).fetchall()
    connection.close()
    return found


@pytest.fixture
def database(tmp_path):
    return tmp_path / "data" / "votes.sqlite3"


@pytest.fixture
def store(database):
    store = VoteStore(f"sqlite:///{database}")
    yield store
    store.close()


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


def test_the_store_keeps_everything_when_reopened(database, battle):
    for network_volume in (False, True, False):
        store = VoteStore(f"sqlite:///{database}", network_volume)
        store.vote(store.record_battle(battle), "a", "browser-1")
        store.close()
    assert raw(database, "SELECT count(*) FROM vote") == [(3,)]


def test_threads_take_turns_on_a_network_volume(database, battle):
    store = VoteStore(f"sqlite:///{database}", network_volume=True)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.vote(store.record_battle(battle), "a", "browser-1"), range(24)))
    assert store.count() == 24
    store.close()


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


def test_who_finds_no_turn_on_a_network_volume_is_told_so(database, battle, monkeypatch):
    store = VoteStore(f"sqlite:///{database}", network_volume=True)
    monkeypatch.setattr(store._engine.pool, "_timeout", 0.01)
    with store._engine.connect(), not_saved(database, "too many are writing at once"):
        store.record_battle(battle)
    store.record_battle(battle)
    store.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=f"Votes cannot be saved: the folder {tmp_path}/file/data cannot be written"):
        VoteStore(f"sqlite:///{tmp_path}/file/data/votes.sqlite3")


def test_a_folder_that_takes_no_file():
    with pytest.raises(StorageError, match=r"the folder /proc/self cannot be written \(unable to open"):
        VoteStore("sqlite:////proc/self/votes.sqlite3")


def test_a_file_that_is_no_database_is_said_and_left_as_it_is(database):
    database.parent.mkdir()
    database.write_text("votes, but in words " * 100)
    with pytest.raises(StorageError, match=r"the folder .* cannot be written \(file is not a database\)"):
        VoteStore(f"sqlite:///{database}")
    assert database.read_text() == "votes, but in words " * 100


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


def test_a_file_that_is_gone_takes_no_vote_and_makes_no_other(store, database, battle):
    battle_id = store.record_battle(battle)
    for _ in range(2):  # on the connection that was open, and on a new one
        database.rename(database.with_name("away"))
        with not_saved(database, "unable to open database file: it is gone"):
            store.vote(battle_id, "a", "browser-1")
        with pytest.raises(StorageError, match=r"The votes cannot be read: .* gone"):
            store.count()
        assert not database.exists()
        database.with_name("away").rename(database)
    store.vote(battle_id, "a", "browser-1")
    assert raw(database, "SELECT battle_id FROM vote") == [(battle_id,)]


def test_other_faults_are_raised_as_they_are(store, database, battle):
    battle_id = store.record_battle(battle)
    raw(database, "DROP TABLE vote")
    with pytest.raises(OperationalError, match="no such table"):
        store.vote(battle_id, "a", "browser-1")

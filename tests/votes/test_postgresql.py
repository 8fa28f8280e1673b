"""What is PostgreSQL's own: a server that goes, that refuses, and that several app processes share."""

import re
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

import ram_demo
from ram_demo.errors import StorageError, UserError
from ram_demo.votes import VoteStore


@pytest.fixture
def url(postgres_url):
    return postgres_url


def test_a_server_that_was_away_between_two_votes_is_found_again(store, raw, battle):
    first, second = store.record_battle(battle), store.record_battle(battle)
    store.vote(first, "a", "browser-1")
    raw("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated' AND pid <> pg_backend_pid()")
    store.vote(second, "a", "browser-1")
    assert store.count() == 2


def test_a_server_that_goes_in_the_middle_of_a_vote_saves_nothing(store, raw, battle):
    battle_id = store.record_battle(battle)

    def end(db, _cursor, statement, *_):
        if statement.startswith("INSERT INTO vote"):
            raw(f"SELECT pg_terminate_backend({db.connection.driver_connection.info.backend_pid})")

    event.listen(store._engine, "before_cursor_execute", end)
    with pytest.raises(StorageError, match=r"^The vote was NOT saved: the database migrated at 127\.0\.0\.1 cannot be"):
        store.vote(battle_id, "a", "browser-1")
    event.remove(store._engine, "before_cursor_execute", end)
    assert store.count() == 0
    store.vote(battle_id, "a", "browser-1")
    assert raw("SELECT battle_id FROM vote") == [(battle_id,)]


def test_a_server_that_goes_while_it_commits_leaves_it_open_whether_it_did(store, raw, battle):
    battle_id = store.record_battle(battle)

    def end(db):
        raw(f"SELECT pg_terminate_backend({db.connection.driver_connection.info.backend_pid})")

    event.listen(store._engine, "commit", end)
    with pytest.raises(StorageError, match=r"^It is not known whether that was saved: "):
        store.vote(battle_id, "a", "browser-1")
    event.remove(store._engine, "commit", end)
    store.vote(battle_id, "a", "browser-1")
    assert raw("SELECT battle_id FROM vote") == [(battle_id,)]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("lock_timeout = '20ms'", "lock timeout"), ("default_transaction_read_only = on", "read-only transaction")],
)
def test_a_database_that_is_locked_or_read_only_says_that_nothing_was_saved(store, url, battle, setting, reason):
    battle_id = store.record_battle(battle)

    def obey(connection, *_):
        connection.execute(f"SET {setting}")
        connection.commit()

    event.listen(Pool, "checkout", obey)
    try:
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("SELECT * FROM battle FOR UPDATE")
            with pytest.raises(StorageError, match=f"The vote was NOT saved: .*{reason}"):
                store.vote(battle_id, "a", "browser-1")
    finally:
        event.remove(Pool, "checkout", obey)
    store._engine.dispose()
    store.vote(battle_id, "a", "browser-1")


def test_no_message_tells_the_password(url):
    password = re.search(r":(\w+)@", url)[1]
    nowhere = url.replace("/migrated", "/nowhere")
    closed = re.sub(r":\d+/", ":1/", url)
    wrong = url.replace(password, "wr0ng-" + password)
    for address in (nowhere, closed, wrong):
        with pytest.raises(StorageError, match="Votes cannot be saved: the database") as refused:
            VoteStore(address)
        shown = f"{refused.value} {refused.value.__cause__} {refused.value.__cause__.__cause__}"
        assert password not in shown
    for address in (url.replace("+psycopg", "+asyncpg"), url.replace("postgresql+psycopg://", ""), url[:-9]):
        with pytest.raises(UserError, match="The database's address must be") as refused:
            VoteStore(address)
        assert password not in str(refused.value)


VOTER = """
import sys
from ram_demo.errors import UserError
from ram_demo.votes import VoteStore

store = VoteStore(sys.argv[1])
sys.stdin.read(1)
for battle_id in sys.argv[2:]:
    try:
        store.vote(battle_id, "a", "browser-1")
        print("accepted")
    except UserError as error:
        print(error)
"""


def test_several_app_processes_take_one_vote_a_battle(store, url, raw, battle):
    ids = [store.record_battle(battle) for _ in range(20)]
    voters = [
        subprocess.Popen(
            [sys.executable, "-c", VOTER, url, *ids],
            cwd=Path(ram_demo.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for voter in voters:
        voter.stdin.write("x")
        voter.stdin.flush()
    said = Counter(line for voter in voters for line in voter.communicate()[0].splitlines())
    assert said == {"accepted": 20, "This battle has its vote already: a battle is voted on once.": 40}
    assert raw("SELECT count(*) FROM vote") == [(20,)]
    with closing(VoteStore(url)) as again:
        assert again.count() == 20

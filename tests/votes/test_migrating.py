"""Old tables become today's and keep every vote, once, whoever opens them first; a file is copied before."""

import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

import ram_demo
from ram_demo.errors import StorageError, UserError
from ram_demo.votes import VoteStore
from ram_demo.votes.schema import Record

# What version 1 wrote into a file, word by word, and rows as it wrote them.
OLD = """
CREATE TABLE battle (
    id TEXT NOT NULL, created_at DATETIME NOT NULL, prompt TEXT NOT NULL, session TEXT NOT NULL, seed BIGINT NOT NULL,
    mode TEXT NOT NULL, settings TEXT NOT NULL, proposal TEXT NOT NULL, proposal_revision TEXT NOT NULL,
    app_version TEXT NOT NULL, PRIMARY KEY (id)
);
CREATE TABLE response (
    id TEXT NOT NULL, battle_id TEXT NOT NULL, side VARCHAR(1) NOT NULL, lane TEXT NOT NULL, aligners TEXT NOT NULL,
    aligner_revision TEXT NOT NULL, text TEXT NOT NULL, done VARCHAR(7) NOT NULL, tokens INTEGER NOT NULL,
    tokens_per_s FLOAT NOT NULL, first_token_ms FLOAT NOT NULL, gated_share FLOAT, mean_kl FLOAT, trace TEXT NOT NULL,
    PRIMARY KEY (id), UNIQUE (battle_id, side), FOREIGN KEY(battle_id) REFERENCES battle (id),
    CONSTRAINT side CHECK (side IN ('a', 'b')), CONSTRAINT done CHECK (done IN ('eos', 'length', 'stopped'))
);
CREATE TABLE vote (
    id TEXT NOT NULL, battle_id TEXT NOT NULL, choice VARCHAR(8) NOT NULL, session TEXT NOT NULL,
    created_at DATETIME NOT NULL, PRIMARY KEY (id), UNIQUE (battle_id), FOREIGN KEY(battle_id) REFERENCES battle (id),
    CONSTRAINT choice CHECK (choice IN ('a', 'b', 'tie', 'both_bad'))
);
INSERT INTO battle VALUES ('b1', '2026-01-02 03:04:05.000006', 'Why?', 'me', 9007199254740993, 'product',
    '{"top_k": null}', 'tiny', 'cd', '0.1.0');
INSERT INTO battle VALUES ('b2', '2026-01-03 00:00:00.000000', 'And 👩‍🚀?', 'you',
    7, 'par', '{}', 'tiny', 'cd', '0.1.0');
INSERT INTO response VALUES
    ('r1', 'b1', 'a', 'base', '', '', 'Blue.', 'eos', 3, 21.5, 80.25, NULL, NULL, '{"steps": []}'),
    ('r2', 'b1', 'b', 'concise', 'concise:1', 'ab', 'Air.', 'length', 2, 20.0, 81.0, 0.25, -0.5, '{"steps": [1]}'),
    ('r3', 'b2', 'a', 'base', '', '', '', 'stopped', 0, 0.0, 0.0, NULL, NULL, '{}'),
    ('r4', 'b2', 'b', 'concise', 'concise:1', 'ab', 'x', 'eos', 1, 1.0, 1.0, 0.0, 0.0, '{}');
INSERT INTO vote VALUES ('v1', 'b1', 'both_bad', 'me', '2026-01-02 03:05:00.000000');
PRAGMA user_version = 1;
"""


@pytest.fixture
def old(tmp_path):
    """A file that version 1 left."""
    file = tmp_path / "votes.sqlite3"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(OLD)
    return file


def backups(file: Path) -> list[Path]:
    return sorted(file.parent.glob("*.backup"))


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as db:
        return list(db.iterdump())


def test_the_steps_lead_to_the_tables_that_the_code_describes(store):
    with store._engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), Record.metadata) == []


def test_old_votes_are_found_afterwards_and_as_they_were_beside(old, caplog):
    before = dump(old)
    store = VoteStore(f"sqlite:///{old}")
    (row,) = store.rows()
    assert (row.id, row.battle_id, row.choice, row.app_version) == ("v1", "b1", "both_bad", "0.1.0")
    assert row.created_at.isoformat() == "2026-01-02T03:05:00+00:00"
    assert row.battle_created_at.isoformat() == "2026-01-02T03:04:05.000006+00:00"
    assert (row.counts, row.why, row.imported, row.ballot.comment, row.ballot.reasons) == (True, "", False, "", ())
    battle = row.battle
    assert (battle.prompt, battle.session, battle.seed, battle.mode) == ("Why?", "me", 2**53 + 1, "product")
    assert (battle.settings, battle.proposal, battle.proposal_revision) == ({"top_k": None}, "tiny", "cd")
    assert (battle.kind, battle.blind, battle.category, battle.later) == ("compare", False, "", ())
    assert vars(battle.b) == {
        "lane": "concise", "aligners": "concise:1", "aligner_revision": "ab", "text": "Air.", "done": "length",
        "tokens": 2, "tokens_per_s": 20.0, "first_token_ms": 81.0, "gated_share": 0.25, "mean_kl": -0.5,
        "trace": {"steps": [1]},
    }  # fmt: skip
    assert battle.a.gated_share is battle.a.mean_kl is None
    store.vote("b2", "tie", "you")
    with pytest.raises(UserError, match="voted on once"):
        store.vote("b1", "a", "me")
    assert store.count() == 2
    store.close()
    (copy,) = backups(old)
    assert copy.name.startswith("votes.sqlite3.20") and dump(copy) == before
    assert f"from 0001 to 0002; as they were: {copy}" in caplog.text


def test_what_is_up_to_date_is_left_alone(old, caplog):
    VoteStore(f"sqlite:///{old}").close()
    caplog.clear()
    VoteStore(f"sqlite:///{old}").close()
    assert len(backups(old)) == 1 and not caplog.records


def test_a_new_file_needs_no_backup_and_no_word(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    VoteStore(f"sqlite:///{tmp_path}/votes.sqlite3").close()
    assert not list(tmp_path.glob("*.backup")) and not caplog.records


def test_on_a_network_volume_too(old):
    store = VoteStore(f"sqlite:///{old}", network_volume=True)
    assert store.count() == 1 and len(backups(old)) == 1
    store.close()


def test_a_step_that_fails_leaves_the_tables_as_they_were(old, monkeypatch):
    before = dump(old)

    def full(*_arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.bulk_insert", full)  # the last thing that the step does
        with pytest.raises(StorageError, match=r"Votes cannot be saved: .*disk is full"):
            VoteStore(f"sqlite:///{old}")
    assert dump(old) == before
    store = VoteStore(f"sqlite:///{old}")
    assert store.count() == 1
    store.close()


def test_a_backup_for_which_there_is_no_room_is_not_left_half(old, monkeypatch):
    monkeypatch.setattr("ram_demo.votes.engines.sqlite3.connect", lambda path: old_connect(path, full=True))
    with pytest.raises(StorageError, match="disk is full"):
        VoteStore(f"sqlite:///{old}")
    assert not backups(old)


def old_connect(path, full, connect=sqlite3.connect):
    """A connection to a disk that has no room."""
    db = connect(path)
    db.execute("PRAGMA max_page_count = 1")
    return db


def test_tables_of_a_newer_version_are_not_touched(store, url, raw):
    raw("UPDATE alembic_version SET version_num = '9999'")
    try:
        with pytest.raises(UserError, match=r"written by a newer version of the app \(tables 9999\)"):
            VoteStore(url)
    finally:
        raw("UPDATE alembic_version SET version_num = '0002'")


OPEN = "import sys; from ram_demo.votes import VoteStore; sys.stdin.read(1); print(VoteStore(sys.argv[1]).count())"


def open_at_once(url: str, processes: int) -> list[str]:
    """What so many processes print that open the database at the same moment, and then count its votes."""
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url],
            cwd=Path(ram_demo.__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in opening:
        process.stdin.write("x")
        process.stdin.flush()
    return [process.communicate()[0] for process in opening]


def test_of_many_that_open_at_once_one_migrates(old):
    assert open_at_once(f"sqlite:///{old}", 4) == ["1\n"] * 4
    assert len(backups(old)) == 1


def test_of_many_that_open_an_empty_postgresql_at_once_one_makes_the_tables(postgres):
    with closing(create_engine(f"{postgres}/postgres", isolation_level="AUTOCOMMIT").raw_connection()) as db:
        db.cursor().execute("CREATE DATABASE empty")
    assert open_at_once(f"{postgres}/empty", 4) == ["0\n"] * 4

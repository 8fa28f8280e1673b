"""A store on a database of the test's own, SQLite and PostgreSQL in turn, and battles to put in it."""

import os
from dataclasses import replace

import pytest

from ram_demo.votes import Battle, Response, VoteStore
from tools.postgres import installed_postgres, serve
from tools.sql import run_sql


@pytest.fixture(scope="session")
def postgres():
    """The address of a PostgreSQL server, which has an empty database `postgres`, and `migrated` with the tables.

    Without one the tests that ask for it fail in CI and are skipped, with the reason, elsewhere.
    """
    if installed_postgres() is None:
        absence = (
            "no PostgreSQL was found and none could be got, so nothing is known of votes in it: try `make postgres`"
        )
        if os.environ.get("CI"):
            pytest.fail(absence, pytrace=False)
        pytest.skip(absence)
    with serve("fsync=off") as address:
        run_sql(f"{address}/postgres", "CREATE DATABASE migrated")
        VoteStore(f"{address}/migrated").close()
        yield address


@pytest.fixture
def postgres_url(postgres):
    """A database without any vote; one for every test would take longer to make than the test."""
    yield f"{postgres}/migrated"
    left = "FROM pg_stat_activity WHERE datname = 'migrated'"
    run_sql(f"{postgres}/postgres", f"SELECT pg_terminate_backend(pid) {left}")
    run_sql(f"{postgres}/migrated", "TRUNCATE battle, response, vote, review")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'data' / 'votes.sqlite3'}"


@pytest.fixture
def raw(url):
    """Call it with SQL: what the database's own driver, and not the store, reads or does."""
    return lambda sql: run_sql(url, sql)


@pytest.fixture
def store(url):
    store = VoteStore(url)
    yield store
    store.close()


@pytest.fixture
def battle():
    base = Response(
        lane="base",
        aligners="",
        aligner_revision="",
        text="The sky is blue because\nof air.",
        done="length",
        tokens=96,
        tokens_per_s=21.5,
        first_token_ms=80.25,
        gated_share=None,
        mean_kl=None,
        trace={"steps": [{"token": 7, "text": "The", "p": 0.5}]},
    )
    aligned = replace(
        base, lane="concise", aligners="concise:1.0", aligner_revision="sha256:ab", text="Air.", done="eos", tokens=3,
        gated_share=0.25, mean_kl=-0.0, trace={"steps": [], "seed": 7},
    )  # fmt: skip
    return Battle(
        prompt="Why is the sky blue?",
        session="browser-1",
        seed=2**53 + 1,
        mode="product",
        settings={"temperature": 0.7, "top_k": None, "aligners": [["concise", 1.0]]},
        proposal="SmolLM2-135M-Instruct",
        proposal_revision="sha256:cd",
        a=aligned,
        b=base,
    )


@pytest.fixture
def state_of(raw):
    """Call it with a battle's id: the state that is written in its row."""

    def state(battle_id):
        return raw(f"SELECT state FROM battle WHERE id = '{battle_id}'")[0][0]

    return state

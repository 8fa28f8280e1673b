"""A store on a folder of the test's own, and battles to put in it."""

from dataclasses import replace

import pytest

from ram_demo.votes import Battle, Response, VoteStore


@pytest.fixture
def database(tmp_path):
    return tmp_path / "data" / "votes.sqlite3"


@pytest.fixture
def store(database):
    store = VoteStore(f"sqlite:///{database}")
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
def state_of(store):
    """Call it with a battle's id: the state that is written in its row."""

    def state(battle_id):
        with store._engine.connect() as db:
            return db.exec_driver_sql(f"SELECT state FROM battle WHERE id = '{battle_id}'").scalar()

    return state

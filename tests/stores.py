"""A store of votes for one test, in a SQLite file of its own. Import the fixture into a module to use it there."""

import pytest

from ram_demo.votes import VoteStore


@pytest.fixture
def store(tmp_path):
    store = VoteStore(f"sqlite:///{tmp_path / 'votes.sqlite3'}")
    yield store
    store.close()

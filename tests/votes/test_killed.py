"""Votes that were acknowledged survive kill -9, and nothing is left half; `benchmarks/votes.py` does it 500 times."""

import multiprocessing

from benchmarks.killing import kill
from ram_demo.votes import VoteStore
from tools.sql import run_sql

ROUNDS = 20
multiprocessing.set_forkserver_preload(["benchmarks.killing"])  # so that a child starts in milliseconds


def survived(found):
    assert found.acknowledged >= found.rounds == ROUNDS
    assert (found.lost, found.broken) == (0, 0)


def test_a_vote_that_was_confirmed_survives_a_kill(url):
    survived(kill(url, ROUNDS))


def test_and_on_a_network_volume(tmp_path):
    survived(kill(f"sqlite:///{tmp_path}/votes.sqlite3", ROUNDS, network_volume=True))


def test_and_a_kill_of_the_servers_process(postgres):
    run_sql(f"{postgres}/postgres", "CREATE DATABASE killed")
    VoteStore(f"{postgres}/killed").close()
    survived(kill(f"{postgres}/killed", ROUNDS, server_every=10))


def test_the_count_sees_a_vote_that_is_gone(store, url, raw, monkeypatch):
    def forget(*_round):
        return ["never kept"]

    monkeypatch.setattr("benchmarks.killing._round", forget)
    assert kill(url, 1).lost == 1

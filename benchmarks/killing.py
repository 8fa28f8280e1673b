"""Kills a process again and again while it votes, and counts what was acknowledged and is not there afterwards.

A child votes as an app does (create, begin, end, vote) and names each battle on a pipe once its vote is said to be
kept. At a random moment it gets SIGKILL, or, on PostgreSQL, the server's process that serves it does, after which the
whole server recovers from its log. The count is made by the database's own driver, not by the store.
"""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psycopg

from ram_demo.errors import StorageError
from ram_demo.votes import Ballot, NewBattle, Response, VoteStore
from tools.sql import run_sql

# About as long as the trace of an answer of a hundred tokens.
TRACE = {"steps": [{"token": n, "text": "word", "candidates": [0.5] * 40} for n in range(100)]}
ANSWER = Response("concise", "concise:1", "ab", "word " * 100, "eos", 100, 20.0, 90.0, 0.1, 0.5, TRACE)
ASKED = NewBattle("Why?", "me", 7, "product", {"top_p": 0.95}, "tiny", "cd", kind="pair", blind=True)
LONGEST = 0.05  # seconds after its first vote at which a child is killed at the latest
BROKEN = {
    "battles that say voted and have no vote": (
        "SELECT count(*) FROM battle WHERE state = 'voted' AND id NOT IN (SELECT battle_id FROM vote)"
    ),
    "votes on battles that do not say voted": (
        "SELECT count(*) FROM vote JOIN battle ON battle.id = battle_id WHERE state <> 'voted'"
    ),
    "battles with an odd number of answers": (
        "SELECT count(*) FROM (SELECT battle_id FROM response GROUP BY battle_id HAVING count(*) <> 2) AS odd"
    ),
}


@dataclass(frozen=True)
class Killed:
    """Of so many rounds: votes acknowledged, how many of them are gone, and rows that contradict each other."""

    rounds: int
    acknowledged: int
    lost: int
    broken: int


def battle_to_vote_on(store: VoteStore) -> str:
    battle_id = store.create_battle(ASKED)
    store.begin_turn(battle_id, ASKED.session)
    store.end_turn(battle_id, 0, ASKED.prompt, ANSWER, ANSWER)
    return battle_id


def kill(url: str, rounds: int, *, network_volume: bool = False, server_every: int = 0, seed: int = 0) -> Killed:
    """Kill so many voters; each `server_every`th time the server's process instead (0: never)."""
    chance, acknowledged = random.Random(seed), []
    for number in range(rounds):
        server = bool(server_every) and number % server_every == server_every - 1
        acknowledged += _round(url, network_volume, server, chance.uniform(0, LONGEST))
    kept = {name for (name,) in run_sql(url, "SELECT battle_id FROM vote")}
    broken = sum(run_sql(url, sql)[0][0] for sql in BROKEN.values())
    if url.startswith("sqlite:///"):
        broken += run_sql(url, "PRAGMA integrity_check") != [("ok",)]
    return Killed(rounds, len(acknowledged), len(set(acknowledged) - kept), broken)


def _round(url: str, network_volume: bool, server: bool, moment: float) -> list[str]:
    """The battles whose votes one child acknowledged before the kill."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_vote_for_ever, args=(url, network_volume, theirs))
    child.start()
    theirs.close()
    heard = [ours.recv_bytes().decode()]
    end = time.monotonic() + moment
    while ours.poll(max(0.0, end - time.monotonic())) and time.monotonic() < end:
        heard.append(ours.recv_bytes().decode())
    if server:
        _kill_servers_process(url)
    else:
        child.kill()
    try:
        while True:
            heard.append(ours.recv_bytes().decode())
    except (EOFError, OSError):  # the pipe's end; in the middle of a message if it was killed there
        child.join()
    if server:
        _wait_for_server(url)
    return heard


def _vote_for_ever(url: str, network_volume: bool, pipe: Connection) -> None:
    store = VoteStore(url, network_volume)
    try:
        while True:
            battle_id = battle_to_vote_on(store)
            store.vote(battle_id, "a", ASKED.session, Ballot(comment="because"))
            pipe.send_bytes(battle_id.encode())
    except StorageError:  # the server is gone, and nothing of this vote was acknowledged
        return


def _kill_servers_process(url: str) -> None:
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for (pid,) in run_sql(url, others):
        os.kill(pid, signal.SIGKILL)


def _wait_for_server(url: str) -> None:
    while True:
        try:
            run_sql(url, "SELECT 1")
            return
        except psycopg.OperationalError:
            time.sleep(0.02)

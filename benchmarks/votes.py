"""Votes under stress, on SQLite and on PostgreSQL: killed while writing, given twice at once, and how long one takes.

`python -m benchmarks.votes [--rounds N]` prints its tables. It starts a PostgreSQL of its own, whose commits reach the
disk as they do by default.
"""

import argparse
import multiprocessing
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

from benchmarks import killing
from benchmarks.tables import Figure, Table, seconds, show
from ram_demo.errors import UserError
from ram_demo.settings import from_environment
from ram_demo.votes import VoteStore
from tools.postgres import serve

ATTEMPTS = 50
PROCESSES = 5  # stores that the attempts are spread over, each with connections of its own
BATTLES = 100
VOTES = 300


def figures(rounds: int) -> Iterator[Figure]:
    # A server of forks that has all imported: a child starts in milliseconds, and imports this module again in no time.
    multiprocessing.set_forkserver_preload(["benchmarks.killing", "benchmarks.tables"])
    with tempfile.TemporaryDirectory() as folder, serve() as address:
        lite, network = (f"sqlite:///{Path(folder, name)}" for name in ("votes.sqlite3", "network.sqlite3"))
        server = f"{address}/postgres"
        yield from killed("SQLite", lite, rounds)
        yield from killed("SQLite on a network volume", network, rounds, network_volume=True)
        yield from killed("PostgreSQL, every tenth time its server", server, rounds, server_every=10)
        for name, url in (("SQLite", lite), ("PostgreSQL", server)):
            yield from twice(name, url)
        for name, url in (("SQLite", lite), ("PostgreSQL", server)):
            yield from latency(name, url)


def killed(name: str, url: str, rounds: int, **how) -> Iterator[Figure]:
    found = killing.kill(url, rounds, **how)
    table = Table(f"kill -9 while votes are written: {name}")
    yield table.single("rounds", found.rounds, "")
    yield table.single("votes acknowledged", found.acknowledged, "")
    yield table.single("of them lost", found.lost, "", "0")
    yield table.single("rows that contradict each other", found.broken, "", "0")


def twice(name: str, url: str) -> Iterator[Figure]:
    """Fifty attempts at once on each of many battles."""
    stores = [VoteStore(url) for _ in range(PROCESSES)]
    accepted = []

    def attempt(store: VoteStore, battle_id: str, start: Barrier) -> bool:
        start.wait()
        try:
            store.vote(battle_id, "a", killing.ASKED.session)
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(ATTEMPTS) as threads:
        for _ in range(BATTLES):
            battle_id, start = killing.battle_to_vote_on(stores[0]), Barrier(ATTEMPTS)
            tried = [threads.submit(attempt, stores[n % PROCESSES], battle_id, start) for n in range(ATTEMPTS)]
            accepted.append(sum(answer.result() for answer in tried))
    for store in stores:
        store.close()
    table = Table(f"{ATTEMPTS} votes at once on a battle: {name}")
    yield table.single("battles", BATTLES, "")
    yield table.single("second votes accepted", sum(max(0, n - 1) for n in accepted), "", "0")
    yield table.single("battles without a vote", accepted.count(0), "", "0")


def latency(name: str, url: str) -> Iterator[Figure]:
    """How long the store takes for one vote, alone and while an answer streams in the same process."""
    from benchmarks import ours

    table = Table(f"One vote: {name}")
    with closing(VoteStore(url)) as store:

        def votes() -> list[float]:
            ids = [killing.battle_to_vote_on(store) for _ in range(VOTES)]
            return [1000 * seconds(lambda one=one: store.vote(one, "a", killing.ASKED.session)) for one in ids]

        yield table.median("alone", votes(), "ms")
        bench, stop = ours.open_endless(from_environment()), threading.Event()

        def stream() -> None:
            while not stop.is_set():
                ours.compare(bench, ours.lanes(0), 200)

        other = threading.Thread(target=stream)
        other.start()
        yield table.median("while an answer streams to someone else", votes(), "ms", "under 100 ms")
        stop.set()
        other.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    show(figures(parser.parse_args().rounds), as_json=False)

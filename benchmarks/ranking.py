"""Ratings: the time for a million votes, and how often 95% intervals hold the truth, over simulated arenas.

    python -m benchmarks.ranking

An arena has a base and lanes whose strengths against it are drawn anew, each lane's from a normal distribution
of one log-odds; pairs are drawn at random, results from Davidson's model with about 20% ties between equals. Each vote
is a stranger's, or every voter gave ten and is of one mind in a part of them.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.tables import Figure, Table, alternate, seconds, show
from ram_demo.ranking import INTERVALS, Ballots, fit

ARENAS = 500
ETA = -0.7  # about 20% ties between equals
WANTED = "93 to 97%"


def arena(draw: np.random.Generator, lanes: int, votes: int, alike: float = 0.0, far: float = 1.0):
    """(ballots, the true strengths against the base). far: the standard deviation of the lanes' strengths.

    alike: the share of votes in which a voter, with ten votes, has the mood of the day, so that they are no ten
    independent votes, though each by itself is what the truth says.
    """
    truth = far * draw.normal(size=lanes)
    truth -= truth[0]
    one = draw.integers(0, lanes, votes)
    other = (one + draw.integers(1, lanes, votes)) % lanes
    a, b = np.minimum(one, other), np.maximum(one, other)
    voter = np.arange(votes) // 10
    mood = draw.random(votes // 10 + 1)[voter]
    luck = np.where(draw.random(votes) < alike, mood, draw.random(votes))
    d = truth[a] - truth[b]
    weights = np.exp([d / 2, np.full(votes, ETA), -d / 2])
    chances = (weights / weights.sum(0)).cumsum(0)
    result = np.array([0, 2, 1])[np.minimum((luck > chances).sum(0), 2)]
    names = ("base", *(f"lane {i}" for i in range(1, lanes)))
    return Ballots(a, b, result, names, voter if alike else None), truth


def coverage(lanes: int, votes: int, arenas: int, seed: int = 0, **how) -> float:
    """The share of all lanes but the base, over all arenas, whose interval holds the truth."""
    intervals = how.pop("intervals", "sandwich")
    draw = np.random.default_rng(seed)
    held = []
    for _ in range(arenas):
        ballots, truth = arena(draw, lanes, votes, **how)
        low, high = fit(ballots, intervals=intervals).intervals()
        held.append((low <= truth) & (truth <= high))
    return float(np.mean(np.array(held)[:, 1:]))


def figures() -> Iterator[Figure]:
    table = Table("Ratings of 1,000,000 votes over 50 lanes")
    ballots, _ = arena(np.random.default_rng(0), 50, 1_000_000)
    voted = replace(ballots, voter=np.arange(1_000_000) // 10)
    for given, words in ((ballots, "strangers"), (voted, "100,000 voters")):
        for intervals in INTERVALS:
            (taken,) = alternate(lambda g=given, i=intervals: seconds(lambda: fit(g, intervals=i)))
            yield table.median(f"{words}, {intervals}", taken, "s", "under 2 s")
    for intervals in INTERVALS:
        table = Table(f"95% intervals ({intervals}) that hold the truth, {ARENAS} arenas")
        for lanes in (2, 5, 8):
            for votes in (50, 500, 5000):
                held = coverage(lanes, votes, ARENAS, intervals=intervals)
                yield table.single(f"{lanes} lanes, {votes} votes", 100 * held, "%", WANTED)
    table = Table(f"95% intervals that hold the truth, 50 votes, {ARENAS} arenas of 5 lanes")
    for far in (0.25, 0.5, 1.5, 2.0):
        for intervals in INTERVALS:
            held = coverage(5, 50, ARENAS, intervals=intervals, far=far)
            yield table.single(f"lanes {far:g} log-odds apart, {intervals}", 100 * held, "%", WANTED)
    table = Table(f"95% intervals that hold the truth where votes hang together, {ARENAS} arenas of 5 lanes")
    for votes in (500, 5000):
        for intervals in INTERVALS:
            held = coverage(5, votes, ARENAS, intervals=intervals, alike=0.5)
            yield table.single(f"{votes} votes, {intervals}", 100 * held, "%", WANTED)


if __name__ == "__main__":
    show(figures(), "--json" in sys.argv)

"""Elo's ratings, beside the others for those who ask. They depend on the order of the votes, so it is fixed: by time.

Elo (1978); FastChat's numbers: steps of 4 points, 400 points to a factor of 10. A tie, and both bad, is half a win.
"""

import numpy as np

from ram_demo.ranking.ballots import BASE, Ballots
from ram_demo.ranking.ratings import POINTS
from ram_demo.ranking.shares import wins_of_b

STEP = 4.0


def elo(ballots: Ballots) -> np.ndarray:
    """Points of each lane after all votes in `ballots.order`, moved so that the base stands at 0 [K]."""
    order = np.argsort(ballots.order, kind="stable")
    won = 1 - wins_of_b(ballots)[order]
    points = [0.0] * len(ballots.names)
    # Each vote needs the one before, so there is nothing here to vectorise; lists are quicker than arrays one by one.
    for a, b, share in zip(ballots.a[order].tolist(), ballots.b[order].tolist(), won.tolist(), strict=True):
        moved = STEP * (share - 1 / (1 + np.e ** ((points[b] - points[a]) / POINTS)))
        points[a] += moved
        points[b] -= moved
    return np.array(points) - points[ballots.names.index(BASE)]

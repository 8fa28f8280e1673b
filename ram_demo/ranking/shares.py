"""What can be counted without a model: who beat whom, how often the left was preferred, how wins move with a number.

A win rate counts a tie, and both bad, as half a win. Intervals are Wilson's; for half wins they are a little too wide,
because a tie varies less than a win and a loss.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ram_demo.ranking.ballots import A_BETTER, B_BETTER, BOTH_BAD, TIE, Ballots
from ram_demo.ranking.ratings import LEVEL, Ratings


@dataclass(frozen=True)
class Share:
    """A share of `votes`, between 0 and 1, and its interval. Of nothing, it is not known: nan, from 0 to 1."""

    value: float
    low: float
    high: float
    votes: int


def wilson(part: float, votes: int, level: float = LEVEL) -> Share:
    """Wilson (1927), equation 1: the shares that `part` of `votes` does not contradict."""
    if not votes:
        return Share(math.nan, 0.0, 1.0, 0)
    z, share = ndtri((1 + level) / 2), part / votes
    middle = (share + z**2 / (2 * votes)) / (1 + z**2 / votes)
    half = z / (1 + z**2 / votes) * math.sqrt(share * (1 - share) / votes + z**2 / (4 * votes**2))
    return Share(share, max(middle - half, 0.0), min(middle + half, 1.0), int(votes))


@dataclass(frozen=True)
class Meetings:
    """Who met whom, [K, K] each: wins[i, j] counts the votes that prefer i to j; ties and both_bad are symmetric."""

    wins: np.ndarray
    ties: np.ndarray
    both_bad: np.ndarray

    @property
    def votes(self) -> np.ndarray:
        return self.wins + self.wins.T + self.ties + self.both_bad

    def win_rate(self, i: int, j: int) -> Share:
        half = (self.ties[i, j] + self.both_bad[i, j]) / 2
        return wilson(self.wins[i, j] + half, int(self.votes[i, j]))


def meetings(ballots: Ballots) -> Meetings:
    """Placebos left out: a lane that meets itself wins and loses at once."""
    size = len(ballots.names)
    of = [np.bincount((ballots.a * size + ballots.b)[ballots.result == r], minlength=size**2).reshape(size, size)
          for r in range(4)]  # fmt: skip
    return Meetings(
        wins=of[A_BETTER] + of[B_BETTER].T,
        ties=of[TIE] + of[TIE].T,
        both_bad=of[BOTH_BAD] + of[BOTH_BAD].T,
    )


def left(ballots: Ballots) -> Share:
    """How often side A was preferred, of the votes that prefer a side. Half, where sides are drawn by lot and nobody
    favours one; placebo rounds, whose two answers come from one lane, say it whatever the lanes are."""
    preferred = int((ballots.result == A_BETTER).sum())
    return wilson(preferred, preferred + int((ballots.result == B_BETTER).sum()))


def both_bad(ballots: Ballots) -> Share:
    return wilson(int((ballots.result == BOTH_BAD).sum()), len(ballots))


def wins_of_b(ballots: Ballots) -> np.ndarray:
    """What side B got of each vote: 1, 0 or a half [n]."""
    return np.array([0.0, 1.0, 0.5, 0.5])[ballots.result]


def along(values: np.ndarray, wins: np.ndarray, parts: int = 5) -> list[tuple[float, Share]]:
    """How wins [n] move with a number [n]: votes in at most `parts` parts of about equal size, in the number's order,
    equal numbers together. (mean of the number, win rate) of each."""
    if not len(values):
        return []
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) > parts:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1]))
        place = np.searchsorted(edges, values, side="left")
    found = []
    for part in np.unique(place):
        inside = place == part
        found.append((float(values[inside].mean()), wilson(float(wins[inside].sum()), int(inside.sum()))))
    return found


def votes_to_separate(ratings: Ratings, i: int, j: int, level: float = LEVEL) -> int | None:
    """How many more votes on these two against each other would put their difference's interval clear of zero, if it
    stays what it is now; 0 if it is clear, None if they are equal so far.

    A vote on the two adds to the information about d what Davidson's model says it holds:
    (1 - P(tie) - (P(i) - P(j))^2) / 4.
    """
    difference, half = ratings.difference(i, j, level)
    if half < abs(difference):
        return 0
    if not difference:
        return None
    tie = 0.0 if ratings.tie is None else ratings.tie
    ties = 2 * tie / (1 - tie)  # e^eta of `likelihood.py`
    first, second = math.exp(difference / 2), math.exp(-difference / 2)
    whole = first + second + ties
    edge = (first - second) / whole
    information = (1 - ties / whole - edge**2) / 4
    z = float(ndtri((1 + level) / 2))
    return math.ceil(((z / difference) ** 2 - (z / half) ** 2) / information)

"""From votes to strengths with intervals. The fit is scipy's; what a strength is stands in `likelihood.py`.

Strengths are log-odds, the base's being 0: at 1, people who prefer one of the two prefer the lane e : 1. In Elo's
points, 400 / ln 10 of them to one of log-odds, 400 points are 10 : 1.

The ridge is a normal prior around the base with a standard deviation of 5 (869 points). It is weak: it is there so that
ten unanimous votes give a number, and the intervals hold what they promise (`benchmarks/ranking.py`) with 50 votes as
with 5,000.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy import optimize, sparse
from scipy.special import stdtrit

from ram_demo.errors import UserError
from ram_demo.ranking.ballots import BASE, Ballots, group
from ram_demo.ranking.likelihood import TIES, Likelihood

POINTS = 400 / math.log(10)  # Elo's points to one of log-odds
RIDGE = 1 / 25
LEVEL = 0.95
INTERVALS = ("sandwich", "bootstrap")
RESAMPLES = 200
ROOM = 2_000_000  # counts of resamples that are worked on at once
DOUBT = 6  # votes for each parameter, as many as the model's own word weighs beside the scores' spread
FEWEST = 3  # degrees of freedom: below, Student's t says nothing that anybody could use


@dataclass(frozen=True)
class Spread:
    """How far the estimates may be off: their covariance [M, M] and its degrees of freedom."""

    covariance: np.ndarray
    freedom: float

    def half(self, contrasts: np.ndarray, level: float) -> np.ndarray:
        """Half the width of the interval of each contrast [m, M]."""
        variance = np.einsum("ij,jk,ik->i", contrasts, self.covariance, contrasts)
        return stdtrit(max(self.freedom, FEWEST), (1 + level) / 2) * np.sqrt(np.maximum(variance, 0.0))


@dataclass(frozen=True)
class Ratings:
    """names: the K lanes. values: their strengths in log-odds, then the weights of the covariates [M = K + k].
    tie: P(tie) between two equals; None where ties were half wins. votes: how many each lane was in [K]."""

    names: tuple[str, ...]
    covariate_names: tuple[str, ...]
    values: np.ndarray
    tie: float | None
    votes: np.ndarray
    spreads: tuple[Spread, ...]

    @property
    def strengths(self) -> np.ndarray:
        return self.values[: len(self.names)]

    def half_widths(self, contrasts: np.ndarray, level: float = LEVEL) -> np.ndarray:
        """Of sums of `values` with these weights [m, M]. Where votes came from voters who gave several, the wider of
        two: a handful of voters can agree by chance, and their own spread is then too narrow."""
        return np.max([spread.half(contrasts, level) for spread in self.spreads], axis=0)

    def intervals(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of every one of `values` [M]."""
        half = self.half_widths(np.eye(len(self.values)), level)
        return self.values - half, self.values + half

    def difference(self, i: int, j: int, level: float = LEVEL) -> tuple[float, float]:
        """By how much lane i is above lane j, and half the width of its interval."""
        contrast = np.zeros((1, len(self.values)))
        contrast[0, [i, j]] += (1.0, -1.0)
        return float(self.values[i] - self.values[j]), float(self.half_widths(contrast, level)[0])


def fit(
    ballots: Ballots,
    *,
    ties: str = "davidson",
    ridge: float = RIDGE,
    intervals: str = "sandwich",
) -> Ratings:
    """The ratings of every lane in `ballots.names`, BASE among them, seen in a vote or not. At least one vote, and none
    of a lane against itself: placebos say nothing of strength.

    ridge: 0 asks for the plain maximum, which exists only where everybody has won and lost. Raises UserError for a
    choice that is not there.
    """
    if ties not in TIES or intervals not in INTERVALS:
        raise UserError(f"Ties are one of {', '.join(TIES)}, intervals one of {', '.join(INTERVALS)}.")
    lanes, anchor = len(ballots.names), ballots.names.index(BASE)
    groups = group(ballots)
    model = Likelihood(groups, lanes, anchor, ties, ridge)
    start = np.zeros(model.size)
    found = optimize.minimize(model.loss, start, jac=model.gradient, hess=model.hessian, method="trust-exact",
                              options={"gtol": 1e-8, "maxiter": 500}).x  # fmt: skip
    voter = None if ballots.voter is None else np.unique(ballots.voter, return_inverse=True)[1]
    spread = _sandwich if intervals == "sandwich" else _bootstrap
    spreads = [spread(model, found, None)]
    if voter is not None and 1 < voter.max(initial=0) + 1 < len(ballots):
        spreads.append(spread(model, found, voter))
    seen = np.bincount(np.r_[ballots.a, ballots.b], minlength=lanes)
    kept = model.design.shape[1]
    return Ratings(
        names=ballots.names,
        covariate_names=ballots.covariate_names,
        values=np.insert(found[:kept], anchor, 0.0),
        tie=_tie(found[-1]) if model.has_eta else None,
        votes=seen,
        spreads=tuple(Spread(_anchored(s.covariance[:kept, :kept], anchor), s.freedom) for s in spreads),
    )


def _tie(eta: float) -> float:
    return float(np.exp(eta) / (np.exp(eta) + 2))


def _anchored(covariance: np.ndarray, anchor: int) -> np.ndarray:
    """With a row and a column of zeros for the anchor, which is known."""
    return np.insert(np.insert(covariance, anchor, 0.0, axis=0), anchor, 0.0, axis=1)


def _by_voter(model: Likelihood, voter: np.ndarray) -> sparse.csr_array:
    """How often each voter voted so: [voters, 3 G]."""
    cells = model.groups.counts.size
    return sparse.csr_array((np.ones(len(voter)), (voter, model.groups.cell)), shape=(voter.max() + 1, cells))


def _sandwich(model: Likelihood, found: np.ndarray, voter: np.ndarray | None) -> Spread:
    """Huber and White's covariance, clustered by voter where there are any.

    A ridge estimate is off by chance and by what the ridge pulls it; so the prior's own information stands in the
    middle beside the scores'. How far scores spread is itself not known from a few votes, and what was fitted to them
    makes them look closer than they are: of votes the model's word is mixed in, which says how far they should spread;
    of voters, which the model knows nothing of, the usual correction is made (CR1) and Student's t taken.
    """
    hessian = model.hessian(found)
    prior = model.ridge * np.eye(model.size)
    scores, counts = model.cell_scores(found), model.groups.counts.ravel()
    votes = counts.sum()
    if voter is None:
        freedom, share = math.inf, DOUBT * model.size / (DOUBT * model.size + votes)
        meat = (scores.T @ scores.multiply(counts[:, None])).toarray()
        meat = share * (hessian - prior) + (1 - share) * meat
    else:
        freedom, sums = voter.max(), _by_voter(model, voter) @ scores
        correction = (freedom + 1) / freedom * votes / max(votes - model.size, 1)
        meat = correction * (sums.T @ sums).toarray()
    bread = np.linalg.inv(hessian)
    return Spread(bread @ (meat + prior) @ bread, freedom)


def _bootstrap(model: Likelihood, found: np.ndarray, voter: np.ndarray | None) -> Spread:
    """The covariance over RESAMPLES draws of as many votes, or of as many voters with all their votes; always the same
    draws, so that the same votes have the same intervals.

    A draw moves from the estimate by one step of Newton's method on its own votes, many draws at once: the k-step
    bootstrap of Andrews (2002), "Higher-order improvements of a computationally attractive k-step bootstrap for
    extremum estimators", with k = 1. Fitted to the end, draws without a loss run far off, and 50 votes give intervals
    that are too wide. Where nobody disagreed no draw does either, and t and the ridge alone are left: with lanes very
    far apart and few votes these intervals are narrower than they say, and the sandwich's are not.
    """
    counts = model.groups.counts
    steps = []
    draws = _draws(model, voter)
    # At once as many as memory should hold: with covariates there may be a group for each vote.
    while drawn := list(islice(draws, max(ROOM // counts.size, 1))):
        many = np.stack(drawn, axis=-1).reshape(*counts.shape, -1)
        start = np.repeat(found[:, None], len(drawn), axis=1)
        steps.append(np.linalg.solve(model.hessian(start, many), model.gradient(start, many).T[..., None])[..., 0])
    bread = np.linalg.inv(model.hessian(found))
    spread = np.atleast_2d(np.cov(np.concatenate(steps).T))
    independent = model.groups.counts.sum() if voter is None else voter.max() + 1
    return Spread(spread + model.ridge * bread @ bread, independent - 1)


def _draws(model: Likelihood, voter: np.ndarray | None) -> Iterator[np.ndarray]:
    """The cells' counts in each resample [3 G]."""
    draw = np.random.default_rng(0)
    counts = model.groups.counts.ravel()
    if voter is None:
        votes = int(counts.sum())
        for _ in range(RESAMPLES):
            yield draw.multinomial(votes, counts / votes)
    else:
        cells = _by_voter(model, voter).T.tocsr()
        voters = cells.shape[1]
        for _ in range(RESAMPLES):
            yield cells @ np.bincount(draw.integers(voters, size=voters), minlength=voters)

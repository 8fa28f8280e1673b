"""Votes as columns of numbers, and their counts by who met whom. Knows no database, no page and no names but labels."""

from dataclasses import dataclass, replace

import numpy as np

A_BETTER, B_BETTER, TIE, BOTH_BAD = range(4)
BASE = "base"


@dataclass(frozen=True)
class Ballots:
    """n votes, column by column. No result of this room depends on the order of the rows.

    a, b: which of `names` stood on the sides A and B, whole numbers [n].
    result: A_BETTER, B_BETTER, TIE or BOTH_BAD [n].
    voter: who voted, a whole number [n]; None where every vote is somebody else's.
    order: when, as a whole number that grows with time and is never the same twice [n]; only Elo and caps ask for it.
    covariates: what else may sway a vote, A's less B's [n, k]; `covariate_names` has the k names.
    """

    a: np.ndarray
    b: np.ndarray
    result: np.ndarray
    names: tuple[str, ...]
    voter: np.ndarray | None = None
    order: np.ndarray | None = None
    covariates: np.ndarray | None = None
    covariate_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.result)

    def where(self, chosen: np.ndarray) -> "Ballots":
        """The votes that a mask or an index chooses, with the same names."""
        columns = {name: getattr(self, name) for name in ("a", "b", "result", "voter", "order", "covariates")}
        return replace(self, **{name: None if c is None else c[chosen] for name, c in columns.items()})

    def capped(self, most: int) -> "Ballots":
        """At most so many votes of each voter, the earliest ones."""
        if self.voter is None:
            return self
        by_voter = np.lexsort((self.order, self.voter))
        voters = self.voter[by_voter]
        begins = np.flatnonzero(np.r_[True, voters[1:] != voters[:-1]])
        place = np.arange(len(voters)) - np.repeat(begins, np.diff(np.r_[begins, len(voters)]))
        return self.where(np.sort(by_voter[place < most]))

    def with_side(self) -> "Ballots":
        """One more covariate, "left": 1 a vote, so its weight is what standing on side A is worth."""
        ones = np.ones((len(self), 1))
        columns = ones if self.covariates is None else np.hstack([self.covariates, ones])
        return replace(self, covariates=columns, covariate_names=(*self.covariate_names, "left"))


@dataclass(frozen=True)
class Groups:
    """Votes that a rating cannot tell apart, counted: the same two lanes and the same covariates.

    first, second: the lanes, first < second [G]. covariates: the first's less the second's [G, k].
    counts: how often the first was better, the second was better, and neither [3, G].
    cell: of each vote its place in `counts.ravel()` [n].
    """

    first: np.ndarray
    second: np.ndarray
    covariates: np.ndarray
    counts: np.ndarray
    cell: np.ndarray


def group(ballots: Ballots) -> Groups:
    """Count the votes. Both bad says of the two what a tie says: that neither was better."""
    swapped = ballots.a > ballots.b
    first, second = np.where(swapped, ballots.b, ballots.a), np.where(swapped, ballots.a, ballots.b)
    result = np.where(ballots.result < TIE, ballots.result ^ swapped, TIE)
    size = len(ballots.names)
    key, rows = first * size + second, np.zeros((1, 0))
    if ballots.covariates is not None and len(ballots):
        signs = np.where(swapped, -1.0, 1.0)[:, None]
        rows, number = np.unique(ballots.covariates * signs, axis=0, return_inverse=True)
        key = key * len(rows) + number.ravel()
    keys, place = np.unique(key, return_inverse=True)
    cell = result * len(keys) + place
    pairs, number = np.divmod(keys, len(rows))
    return Groups(
        first=pairs // size,
        second=pairs % size,
        covariates=rows[number],
        counts=np.bincount(cell, minlength=3 * len(keys)).reshape(3, len(keys)).astype(float),
        cell=cell,
    )


def relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much an A is larger than its B, between -1 and 1: (a - b) / (a + b) in steps of a twentieth [n].

    LMArena's form of length and style; the steps keep votes few that no rating needs to tell apart. Where either is not
    known (nan), and where both are nothing, it is 0.
    """
    whole = a + b
    with np.errstate(invalid="ignore"):
        share = np.where(whole > 0, (a - b) / np.where(whole > 0, whole, 1), 0.0)
    return np.round(20 * share) / 20

"""How likely votes are, given strengths: Davidson's Bradley-Terry with ties, or ties as half wins. Pure formulas.

d = strength of the first - strength of the second + covariates . weights: the log-odds that the first is better, given
that one of them is. Parameters are the strengths of all lanes but the anchor, whose strength is 0, then the weights of
the covariates, then (Davidson) eta, the log of how readily people call a tie.

Davidson (1970), "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments":
    P(first) : P(second) : P(tie) = e^(d/2) : e^(-d/2) : e^eta
Half wins, as FastChat and arena-rank have it, a tie being half a win and half a loss:
    P(first) = 1 / (1 + e^-d)
Both are exponential families, so the Hessian does not depend on the votes' results, and a fit has one solution.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.special import log_expit, log_softmax

from ram_demo.ranking.ballots import Groups

TIES = ("davidson", "half")


@dataclass(frozen=True)
class Likelihood:
    """Of grouped votes. lanes: K; anchor: the lane of strength 0; ridge: 1 / variance of a normal prior around 0 on
    each parameter. P parameters, G groups; where a method takes parameters [P, B] it answers for B of them at once."""

    groups: Groups
    lanes: int
    anchor: int
    ties: str
    ridge: float

    @cached_property
    def design(self) -> sparse.csr_array:
        """Which parameters make up d: [G, P - 1] with Davidson's eta apart, else [G, P]."""
        groups, size = self.groups, len(self.groups.first)
        rows = np.arange(size)
        pairs = sparse.csr_array(
            (np.r_[np.ones(size), -np.ones(size)], (np.r_[rows, rows], np.r_[groups.first, groups.second])),
            shape=(size, self.lanes),
        )
        kept = np.delete(np.arange(self.lanes), self.anchor)
        return sparse.hstack([pairs[:, kept], sparse.csr_array(groups.covariates)], format="csr")

    @property
    def has_eta(self) -> bool:
        return self.ties == "davidson"

    @property
    def size(self) -> int:
        """P."""
        return self.design.shape[1] + self.has_eta

    def _split(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """d [G, ...] and eta."""
        if not self.has_eta:
            return self.design @ parameters, None
        return self.design @ parameters[:-1], parameters[-1]

    def _logs(self, parameters: np.ndarray) -> np.ndarray:
        """The log-likelihood of one vote of each result: [3, G, ...]."""
        d, eta = self._split(parameters)
        if eta is None:
            won, lost = log_expit(d), log_expit(-d)
            return np.stack([won, lost, (won + lost) / 2])
        return log_softmax(np.stack([d / 2, -d / 2, np.broadcast_to(eta, d.shape)]), axis=0)

    def _scores(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The derivatives of `_logs` by d and by eta, [3, G, ...] each."""
        logs = self._logs(parameters)
        results = np.array([1.0, -1.0, 0.0]).reshape(3, *[1] * (logs.ndim - 1))
        first, second, tie = np.exp(logs)
        if not self.has_eta:
            return (results + 1) / 2 - first, None
        by_eta = np.where(results == 0, 1.0, 0.0) - tie
        return (results - (first - second)) / 2, by_eta

    def loss(self, parameters: np.ndarray) -> float:
        """Minus the log of likelihood times prior."""
        return -(self.groups.counts * self._logs(parameters)).sum() + self.ridge / 2 * parameters @ parameters

    def gradient(self, parameters: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Of the loss, [P, ...]; with counts [3, G, B] in place of the groups' own, of B losses."""
        counts = self.groups.counts if counts is None else counts
        by_d, by_eta = self._scores(parameters)
        score = self.design.T @ (counts * by_d).sum(0)
        if by_eta is not None:
            score = np.concatenate([score, (counts * by_eta).sum((0, 1))[None]])
        return self.ridge * parameters - score

    def hessian(self, parameters: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Of the loss, [P, P], or [B, P, P]."""
        counts = self.groups.counts if counts is None else counts
        votes = counts.sum(0)
        first, second, tie = np.exp(self._logs(parameters))
        shape = (*votes.shape[1:], self.size, self.size)
        whole = np.zeros(shape)
        if self.has_eta:
            edge = first - second
            whole[..., :-1, :-1] = self._weighted(votes * (1 - tie - edge**2) / 4)
            border = self.design.T @ (-votes * tie * edge / 2)
            whole[..., :-1, -1] = whole[..., -1, :-1] = border.T
            whole[..., -1, -1] = (votes * tie * (1 - tie)).sum(0)
        else:
            whole[...] = self._weighted(votes * first * second)
        return whole + self.ridge * np.eye(self.size)

    def _weighted(self, weights: np.ndarray) -> np.ndarray:
        """design' diag(weights) design, for each column of the weights [G, B]."""
        size = self.design.shape[1]
        flat = self._squares @ weights
        return flat.T.reshape(*weights.shape[1:], size, size)

    @cached_property
    def _squares(self) -> sparse.csr_array:
        """Every group's row of the design times itself, as one column: [(P - 1)^2, G]."""
        design = self.design
        filled = np.diff(design.indptr)
        # Each entry of a row beside each entry of the same row.
        left = np.repeat(np.arange(design.nnz), np.repeat(filled, filled))
        starts = np.repeat(design.indptr[:-1], filled**2)
        within = np.arange(len(left)) - np.repeat(np.cumsum(filled**2) - filled**2, filled**2)
        right = starts + within % np.repeat(filled, filled**2)
        row = np.repeat(np.arange(len(filled)), filled**2)
        flat = design.indices[left].astype(np.int64) * design.shape[1] + design.indices[right]
        values = design.data[left] * design.data[right]
        return sparse.csr_array((values, (flat, row)), shape=(design.shape[1] ** 2, len(filled)))

    def cell_scores(self, parameters: np.ndarray) -> sparse.csr_array:
        """The gradient of one vote's log-likelihood, for each cell of the counts: [3 G, P]."""
        by_d, by_eta = self._scores(parameters)
        blocks = [self.design.multiply(column[:, None]) for column in by_d]
        if by_eta is not None:
            blocks = [sparse.hstack([b, sparse.csr_array(e[:, None])]) for b, e in zip(blocks, by_eta, strict=True)]
        return sparse.vstack(blocks, format="csr")

"""Which two lanes a voter is shown next. Pure: lanes are labels, what is known is counts, chance is a seeded generator.

A label is what votes keep of a lane: "base", or an aligner and its strength, as in "concise:2". Knows no models, no
votes beyond their numbers, and nothing of how a rating is fitted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np

from ram_demo.errors import UserError

BASE = "base"
PLACEBO_SHARE = 0.1  # of rounds: one lane on both sides, with two seeds
STRENGTHS = (0.5, 1.0)  # of an aligner's recommended strength: it meets itself at both
PRIOR = 1.0  # precision of what is believed of a lane's strength before any vote, in logits: within about ±2
EVEN = 0.25  # Fisher information of one vote between equals: p (1 - p) at p = 1/2


@dataclass(frozen=True)
class Pair:
    """Two lanes by label, and where each stands. kind: pair (two policies), strength (one aligner at two strengths), or
    placebo (one lane twice)."""

    kind: str
    a: str
    b: str


def lanes_of(recommended: Mapping[str, float]) -> tuple[str, ...]:
    """The base, and each aligner at its strengths. recommended: strength by aligner."""
    strengths = [f"{name}:{share * beta:g}" for name, beta in recommended.items() for share in STRENGTHS if beta > 0]
    return (BASE, *dict.fromkeys(strengths))


def aligner_of(label: str) -> str:
    return label.rpartition(":")[0]


def information(lanes: Sequence[str], counts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
    """What one more vote on each pair would tell of all the lanes' strengths, in nats.

    Under Bradley-Terry a vote on i and j has Fisher information p (1 - p) d dᵀ about the strengths, d = e_i - e_j, so n
    votes leave the posterior precision H = PRIOR I + sum of n p (1 - p) d dᵀ. By the matrix determinant lemma one more
    lowers the posterior's entropy by ½ log(1 + p (1 - p) dᵀ H⁻¹ d) (Lindley's gain; D-optimal design). p is taken as
    1/2: pairs whose outcome is known then count as known too early by at most their skew, and no fit is needed.

    counts: votes by pair of labels, in either order; lanes that are no longer there are left out.
    """
    at = {label: n for n, label in enumerate(lanes)}
    precision = PRIOR * np.eye(len(lanes))
    for (one, other), count in counts.items():
        if one in at and other in at and one != other:
            i, j = at[one], at[other]
            precision[[i, j], [i, j]] += EVEN * count
            precision[[i, j], [j, i]] -= EVEN * count
    spread = np.linalg.inv(precision)
    return {
        (one, other): 0.5 * math.log1p(EVEN * (spread[i, i] + spread[j, j] - 2 * spread[i, j]))
        for (i, one), (j, other) in combinations(enumerate(lanes), 2)
    }


def draw(lanes: Sequence[str], counts: Mapping[tuple[str, str], int], chance: Random) -> Pair:
    """The next round: a placebo in PLACEBO_SHARE of all, else the pair of which a vote tells most; equals by lot, and
    sides by lot. Raises UserError where there is nothing to compare."""
    if len(lanes) < 2:
        raise UserError("There is no aligner here to compare with the base; train one, or import one.")
    if chance.random() < PLACEBO_SHARE:
        lane = chance.choice(list(lanes))
        return Pair("placebo", lane, lane)
    gains = information(lanes, counts)
    most = max(gains.values())
    one, other = chance.choice([pair for pair, gain in gains.items() if math.isclose(gain, most, rel_tol=1e-9)])
    kind = "strength" if aligner_of(one) == aligner_of(other) else "pair"
    return Pair(kind, *chance.sample((one, other), 2))

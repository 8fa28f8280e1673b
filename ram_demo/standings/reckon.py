"""From votes to standings: which of them are rated, and what the ratings say of each lane. Knows no formula."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ram_demo import ranking
from ram_demo.errors import UserError
from ram_demo.ranking import BASE, POINTS, Ballots, Share
from ram_demo.standings.numbers import Votes, aligner_of
from ram_demo.standings.records import CONTROLS, Curve, Filters, Place, Standings, Weight
from ram_demo.votes import KINDS, MARKS

LENGTH = "length"
TWICE = 1 / 3  # `ranking.relative` of an answer that has twice as much
KL_PARTS, FEWEST = 5, 8  # parts of a curve along KL; votes of which each has at least about so many


def standings(votes: Votes, filters: Filters, styles: dict[str, tuple[int, ...]] | None = None) -> Standings:
    """Everything about the votes that `filters` choose. styles: `VoteStore.styles`, where style is controlled for.

    Raises UserError for a filter that cannot be.
    """
    if filters.control not in CONTROLS:
        raise UserError(f"There is no control {filters.control!r}; there are: {', '.join(CONTROLS[1:])}.")
    if filters.most < 0:
        raise UserError(f"The cap is {filters.most}; it must be zero or more.")
    if filters.kind and filters.kind not in KINDS:
        raise UserError(f"There is no kind {filters.kind!r}; there are: {', '.join(KINDS)}.")
    offered = {"categories": tuple(text for text in votes.category.texts if text), "kinds": votes.kind.texts}
    chosen, left_out = _chosen(votes, filters)
    ballots = votes.ballots
    placebo = ballots.a == ballots.b
    capped = ballots.where(np.flatnonzero(chosen & ~placebo))
    if filters.most:
        before = len(capped)
        capped = capped.capped(filters.most)
        left_out |= {"over the voter's cap": before - len(capped)} if before > len(capped) else {}
    in_placebos = ranking.left(ballots.where(chosen & placebo))
    if not len(capped):
        return Standings(0, left_out, left_in_placebos=in_placebos, **offered)
    rated = _with_covariates(_with_seen_names(capped), votes, filters.control, styles or {})
    found = ranking.fit(rated, intervals=filters.intervals)
    return Standings(
        votes=len(rated),
        left_out=left_out,
        **_places(rated, found, ranking.elo(rated) if filters.elo else None),
        **_curves(votes, rated),
        left_in_placebos=in_placebos,
        left_in_all=_left(rated.where(votes.blind[rated.order])),
        both_bad=ranking.both_bad(rated),
        tie=found.tie,
        weights=_weights(found),
        **offered,
    )


def _chosen(votes: Votes, filters: Filters) -> tuple[np.ndarray, dict[str, int]]:
    """Which votes are rated, and why the others that the filters ask for are not."""
    asked = np.ones(len(votes.ids), bool)
    if filters.category:
        asked &= votes.category.rows(filters.category)
    if filters.kind:
        asked &= votes.kind.rows(filters.kind)
    if filters.blind_only:
        asked &= votes.blind
    reasons = Counter(votes.why.code[asked & ~votes.counts].tolist())
    return asked & votes.counts, {votes.why.texts[code]: count for code, count in sorted(reasons.items())}


def _with_covariates(rated: Ballots, votes: Votes, control: str, styles: dict[str, tuple[int, ...]]) -> Ballots:
    """The votes with what is to be taken out of them: how much longer, and how much more marked up, A is than B. What
    never differs sways nobody."""
    if not control:
        return rated
    found = {LENGTH: ranking.relative(*votes.tokens[rated.order].T)}
    if control == "style":
        none = (0,) * 2 * len(MARKS)
        a, b = np.hsplit(np.array([styles.get(votes.ids[row], none) for row in rated.order], float), 2)
        found |= {name: ranking.relative(a[:, i], b[:, i]) for i, name in enumerate(MARKS)}
    found = {name: differences for name, differences in found.items() if differences.any()}
    if not found:
        return rated
    return replace(rated, covariates=np.stack(list(found.values()), axis=1), covariate_names=tuple(found))


def _with_seen_names(ballots: Ballots) -> Ballots:
    """Only the base and the lanes that have a vote."""
    seen = np.unique(np.r_[0, ballots.a, ballots.b])
    names = tuple(ballots.names[i] for i in seen)
    return replace(ballots, a=np.searchsorted(seen, ballots.a), b=np.searchsorted(seen, ballots.b), names=names)


def _places(rated: Ballots, found: ranking.Ratings, elo: np.ndarray | None) -> dict:
    low, high = found.intervals()
    best = sorted(range(len(found.names)), key=lambda i: (-found.strengths[i], found.names[i]))
    met = ranking.meetings(rated)
    below = dict(pairwise(best))
    places = [
        Place(
            lane=found.names[i],
            **dict(zip(("aligner", "strength"), aligner_of(found.names[i]), strict=True)),
            points=float(POINTS * found.values[i]),
            low=float(POINTS * low[i]),
            high=float(POINTS * high[i]),
            votes=int(found.votes[i]),
            against_base=met.win_rate(i, 0),
            separating=ranking.votes_to_separate(found, i, below[i]) if i in below else None,
            elo=None if elo is None else float(elo[i]),
        )
        for i in best
    ]
    return {"places": tuple(places), "matrix": tuple(tuple(met.win_rate(i, j) for j in best) for i in best)}


def _curves(votes: Votes, rated: Ballots) -> dict:
    """Of the votes on an aligner against the base: how its wins move with its strength, and with its KL."""
    facing = np.flatnonzero((rated.a == 0) ^ (rated.b == 0))
    on_b = rated.a[facing] == 0
    lane = np.where(on_b, rated.b[facing], rated.a[facing])
    wins = np.where(on_b, ranking.wins_of_b(rated.where(facing)), 1 - ranking.wins_of_b(rated.where(facing)))
    kl = votes.kl[rated.order[facing], on_b.astype(int)]
    aligners, strengths = zip(*(aligner_of(name) for name in rated.names), strict=True)
    strength = np.array(strengths, float)[lane]
    curves = {"by_strength": [], "by_kl": []}
    for aligner in sorted(set(aligners) - {BASE}):
        mine = np.array([name == aligner for name in aligners])[lane]
        for name, numbers in (("by_strength", strength), ("by_kl", kl)):
            known = mine & np.isfinite(numbers)
            if known.any():
                most = max(min(known.sum() // FEWEST, KL_PARTS), 1)
                parts = most if name == "by_kl" else len(numbers)  # every strength is a part of its own
                curves[name].append(Curve(aligner, tuple(ranking.along(numbers[known], wins[known], parts))))
    return {name: tuple(found) for name, found in curves.items()}


def _left(blind: Ballots) -> Share | None:
    """How often the left would be preferred between equals, from votes on sides that were drawn by lot."""
    if not len(blind):
        return None
    found = ranking.fit(replace(blind, covariates=None, covariate_names=()).with_side())
    low, high = found.intervals()
    chances = 1 / (1 + np.exp(-np.array([found.values[-1], low[-1], high[-1]])))
    return Share(*map(float, chances), len(blind))


def _weights(found: ranking.Ratings) -> tuple[Weight, ...]:
    low, high = found.intervals()
    lanes = len(found.names)
    values = POINTS * TWICE * np.stack([found.values, low, high], axis=1)[lanes:]
    return tuple(Weight(name, *map(float, row)) for name, row in zip(found.covariate_names, values, strict=True))

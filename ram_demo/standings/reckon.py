"""From the store's columns to standings: which votes are rated, as numbers, and what the ratings say of each lane.

Knows what a label and a kind are, but no SQL and no formula.
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ram_demo import ranking
from ram_demo.errors import UserError
from ram_demo.ranking import BASE, POINTS, Ballots, Share
from ram_demo.standings.records import CONTROLS, Curve, Filters, Place, Standings, Weight
from ram_demo.votes import CHOICES, KINDS, MARKS, Columns

LENGTH = "length"
TWICE = 1 / 3  # `ranking.relative` of an answer that has twice as much
KL_PARTS, FEWEST = 5, 8  # parts of a curve along KL; votes of which each has at least about so many


def canonical(label: str) -> str:
    """A lane's label with its strengths in one form, so that "concise:1.0" and "concise:1" are one lane."""
    parts = (_named(part) for part in label.split(","))
    return ",".join(name if strength is None else f"{name}:{strength:g}" for name, strength in parts)


def _named(part: str) -> tuple[str, float | None]:
    name, _, strength = part.rpartition(":")
    try:
        return (name, float(strength)) if name else (part, None)
    except ValueError:
        return part, None


def aligner_of(label: str) -> tuple[str, float | None]:
    """(aligner, strength) of a lane; several aligners are named together, and have a strength if all share one."""
    parts = [_named(part) for part in label.split(",")]
    strengths = {strength for _, strength in parts}
    return "+".join(name for name, _ in parts), strengths.pop() if len(strengths) == 1 else None


def standings(columns: Columns, filters: Filters, styles: dict[str, tuple[int, ...]] | None = None) -> Standings:
    """Everything about the votes that `filters` choose. styles: `VoteStore.styles`, where style is controlled for.

    Raises UserError for a filter that cannot be.
    """
    if filters.control not in CONTROLS:
        raise UserError(f"There is no control {filters.control!r}; there are: {', '.join(CONTROLS[1:])}.")
    if filters.most < 0:
        raise UserError(f"The cap is {filters.most}; it must be zero or more.")
    if filters.kind and filters.kind not in KINDS:
        raise UserError(f"There is no kind {filters.kind!r}; there are: {', '.join(KINDS)}.")
    offered = {"categories": _found(columns.category), "kinds": _found(columns.kind)}
    chosen, left_out = _chosen(columns, filters)
    ballots = _ballots(columns)
    placebo = ballots.a == ballots.b
    capped = ballots.where(np.flatnonzero(chosen & ~placebo))
    if filters.most:
        before = len(capped)
        capped = capped.capped(filters.most)
        left_out |= {"over the voter's cap": before - len(capped)} if before > len(capped) else {}
    in_placebos = ranking.left(ballots.where(chosen & placebo))
    if not len(capped):
        return Standings(0, left_out, left_in_placebos=in_placebos, **offered)
    rated = _with_covariates(_with_seen_names(capped), columns, filters.control, styles or {})
    found = ranking.fit(rated, intervals=filters.intervals)
    blind = np.array(columns.blind, bool)[rated.order]
    return Standings(
        votes=len(rated),
        left_out=left_out,
        **_places(rated, found, ranking.elo(rated) if filters.elo else None),
        **_curves(columns, rated),
        left_in_placebos=in_placebos,
        left_in_all=_left(rated.where(blind)),
        both_bad=ranking.both_bad(rated),
        tie=found.tie,
        weights=_weights(found),
        **offered,
    )


def _found(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(values) - {""}))


def _chosen(columns: Columns, filters: Filters) -> tuple[np.ndarray, dict[str, int]]:
    """Which votes are rated, and why the others that the filters ask for are not."""
    asked = np.ones(len(columns), bool)
    for wanted, values in ((filters.category, columns.category), (filters.kind, columns.kind)):
        if wanted:
            asked &= np.array([value == wanted for value in values], bool)
    if filters.blind_only:
        asked &= np.array(columns.blind, bool)
    counts = np.array(columns.counts, bool)
    reasons = Counter(columns.why[i].split(":")[0] for i in np.flatnonzero(asked & ~counts))
    return asked & counts, dict(reasons)


def _ballots(columns: Columns) -> Ballots:
    """All votes as numbers; `order` is also the row. Voters are numbered by their names' order, not the rows'."""
    labels = {label: canonical(label) for label in {*columns.a_label, *columns.b_label}}
    names = (BASE, *sorted(set(labels.values()) - {BASE}))
    number = {label: names.index(lane) for label, lane in labels.items()}
    voters = {voter: n for n, voter in enumerate(sorted(set(columns.voter)))}
    choice = {choice: n for n, choice in enumerate(CHOICES)}

    def numbers(values, table) -> np.ndarray:
        return np.fromiter((table[value] for value in values), np.int64, len(values))

    return Ballots(
        a=numbers(columns.a_label, number),
        b=numbers(columns.b_label, number),
        result=numbers(columns.choice, choice),
        names=names,
        voter=numbers(columns.voter, voters),
        order=np.arange(len(columns)),
    )


def _with_covariates(rated: Ballots, columns: Columns, control: str, styles: dict[str, tuple[int, ...]]) -> Ballots:
    """The votes with what is to be taken out of them: how much longer, and how much more marked up, A is than B. What
    never differs sways nobody."""
    if not control:
        return rated
    tokens = (np.array(side, float)[rated.order] for side in (columns.a_tokens, columns.b_tokens))
    found = {LENGTH: ranking.relative(*tokens)}
    if control == "style":
        none = (0,) * 2 * len(MARKS)
        a, b = np.hsplit(np.array([styles.get(columns.id[row], none) for row in rated.order], float), 2)
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


def _curves(columns: Columns, rated: Ballots) -> dict:
    """Of the votes on an aligner against the base: how its wins move with its strength, and with its KL."""
    facing = np.flatnonzero((rated.a == 0) ^ (rated.b == 0))
    on_b = rated.a[facing] == 0
    lane = np.where(on_b, rated.b[facing], rated.a[facing])
    wins = np.where(on_b, ranking.wins_of_b(rated.where(facing)), 1 - ranking.wins_of_b(rated.where(facing)))
    rows = rated.order[facing]
    kl = np.where(on_b, np.array(columns.b_mean_kl, float)[rows], np.array(columns.a_mean_kl, float)[rows])
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

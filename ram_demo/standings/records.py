"""What is asked of the votes and what they say, frozen; and the same as text and as JSON. Works nothing out."""

import math
from dataclasses import asdict, dataclass

from ram_demo.ranking import Share

CONTROLS = ("", "length", "style")  # style: length too


@dataclass(frozen=True)
class Filters:
    """Which votes are rated, and how. Empty text: all. most: votes of one voter that count; 0 for all of them. control:
    what is taken out of the ratings, one of CONTROLS."""

    category: str = ""
    kind: str = ""
    blind_only: bool = False
    most: int = 0
    control: str = ""
    intervals: str = "sandwich"
    elo: bool = False


@dataclass(frozen=True)
class Place:
    """One lane's. points: Elo's scale, the base at 0; low and high: its 95% interval. separating: how many more votes
    on it and the next lane below would part the two; 0 if they are apart, None for equals and for the last. elo: where
    it was asked for."""

    lane: str
    aligner: str
    strength: float | None
    points: float
    low: float
    high: float
    votes: int
    against_base: Share
    separating: int | None
    elo: float | None


@dataclass(frozen=True)
class Curve:
    """How often an aligner was preferred to the base, along a number: (its mean, win rate) of each part of votes."""

    aligner: str
    points: tuple[tuple[float, Share], ...]


@dataclass(frozen=True)
class Weight:
    """What it is worth to voters, in points and with its 95% interval, that an answer has twice as much of it."""

    name: str
    points: float
    low: float
    high: float


@dataclass(frozen=True)
class Standings:
    """All that the leaderboard shows. places: best first, the base among them. left_out: how many votes are not rated,
    by reason. matrix[i][j]: how often place i was preferred to place j. weights: of what was taken out."""

    votes: int
    left_out: dict[str, int]
    places: tuple[Place, ...] = ()
    matrix: tuple[tuple[Share, ...], ...] = ()
    by_strength: tuple[Curve, ...] = ()
    by_kl: tuple[Curve, ...] = ()
    left_in_placebos: Share | None = None
    left_in_all: Share | None = None
    both_bad: Share | None = None
    tie: float | None = None
    weights: tuple[Weight, ...] = ()
    categories: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        return f"{self.votes:,} vote{'' if self.votes == 1 else 's'}"

    def to_json(self) -> list[dict]:
        """A record for each place, then one for all that is not about a single lane."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("places", "matrix")}
        lanes = [place.lane for place in self.places]
        rows = [
            asdict(place) | {"wins_against": _rates(lanes, row)}
            for place, row in zip(self.places, self.matrix, strict=True)
        ]
        return [_finite(record) for record in [*rows, shared]]


def _rates(lanes: list[str], row: tuple[Share, ...]) -> dict[str, float]:
    return {lane: share.value for lane, share in zip(lanes, row, strict=True) if share.votes}


def _finite(value):
    """JSON has no nan: what is not known is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(found: Standings) -> str:
    """A table for people, and what is not about a single lane below it."""
    elo = any(place.elo is not None for place in found.places)
    lines = [
        f"{'lane':<28} {'points':>7} {'95% interval':>16} {'votes':>7}  {'more to part from next':>22}{'    elo' * elo}"
    ]
    for place in found.places:
        interval = f"{place.low:.0f} to {place.high:.0f}"
        parting = {None: "", 0: "apart"}.get(place.separating, f"{place.separating}")
        more = f"{place.elo:>7.0f}" if elo else ""
        lines.append(f"{place.lane:<28} {place.points:>7.0f} {interval:>16} {place.votes:>7}  {parting:>22}{more}")
    lines.append(f"{found.in_words} rated" + "".join(f"; {n} not: {why}" for why, n in found.left_out.items()))
    shares = {"left preferred in placebos": found.left_in_placebos, "both bad": found.both_bad}
    shares |= {"left preferred between equals": found.left_in_all}
    for words, share in shares.items():
        if share and share.votes:
            lines.append(f"{words}: {share.value:.0%} ({share.low:.0%} to {share.high:.0%} of {share.votes})")
    for weight in found.weights:
        lines.append(f"twice the {weight.name}: {weight.points:+.0f} points ({weight.low:.0f} to {weight.high:.0f})")
    return "\n".join(lines)

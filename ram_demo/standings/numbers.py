"""The store's columns as numbers: a million votes in little room, read once and then filtered and rated at will.

Knows what a label is: "concise:1", or "concise:1,pirate:0.5", or "base".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ram_demo.ranking import BASE, Ballots
from ram_demo.votes import CHOICES, Columns


@dataclass(frozen=True)
class Coded:
    """A column of texts: the distinct ones, sorted, and of each row which of them it has [n]."""

    texts: tuple[str, ...]
    code: np.ndarray

    def rows(self, text: str) -> np.ndarray:
        """Which rows have this text [n]."""
        return self.code == (self.texts.index(text) if text in self.texts else -1)


@dataclass(frozen=True)
class Votes:
    """n votes, oldest first. `ballots.order` is the row; ids, and the rest, are by row. tokens, kl: of sides A and B
    [n, 2], nan where not known. why: what a vote is not counted for, without its details."""

    ids: tuple[str, ...]
    ballots: Ballots
    kind: Coded
    category: Coded
    why: Coded
    blind: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    kl: np.ndarray


def votes(columns: Columns) -> Votes:
    """The store's columns, all of them, as numbers."""
    lanes = _coded([canonical(label) for label in (BASE, *columns.a_label, *columns.b_label)])
    # The base first; the others keep their order.
    base = lanes.texts.index(BASE)
    names = (BASE, *lanes.texts[:base], *lanes.texts[base + 1 :])
    lane = np.where(lanes.code == base, 0, lanes.code + (lanes.code < base))[1:]
    choice = {choice: number for number, choice in enumerate(CHOICES)}
    size = len(columns)
    return Votes(
        ids=columns.id,
        ballots=Ballots(
            a=lane[:size],
            b=lane[size:],
            result=np.fromiter((choice[value] for value in columns.choice), np.int64, size),
            names=names,
            voter=_coded(columns.voter).code,
            order=np.arange(size),
        ),
        kind=_coded(columns.kind),
        category=_coded(columns.category),
        why=_coded([why.split(":")[0] for why in columns.why]),
        blind=np.array(columns.blind, bool),
        counts=np.array(columns.counts, bool),
        tokens=_sides(columns.a_tokens, columns.b_tokens),
        kl=_sides(columns.a_mean_kl, columns.b_mean_kl),
    )


def _coded(values: Sequence[str]) -> Coded:
    """Texts are numbered by their own order, so that no number depends on the rows' order."""
    texts = tuple(sorted(set(values)))
    number = {text: n for n, text in enumerate(texts)}
    return Coded(texts, np.fromiter((number[value] for value in values), np.int64, len(values)))


def _sides(a: Sequence[float | None], b: Sequence[float | None]) -> np.ndarray:
    return np.stack([np.array(side, float) for side in (a, b)], axis=1)


def canonical(label: str) -> str:
    """A lane's label with its strengths in one form, so that "concise:1.0" and "concise:1" are one lane."""
    return ",".join(name if strength is None else f"{name}:{strength:g}" for name, strength in _parts(label))


def aligner_of(label: str) -> tuple[str, float | None]:
    """(aligner, strength) of a lane; several aligners are named together, and have a strength if all share one."""
    parts = _parts(label)
    strengths = {strength for _, strength in parts}
    return "+".join(name for name, _ in parts), strengths.pop() if len(strengths) == 1 else None


def _parts(label: str) -> list[tuple[str, float | None]]:
    """The aligners of a label and their strengths; a name without one, as an imported model's, stays as it is."""
    return [_part(part) for part in label.split(",")]


def _part(part: str) -> tuple[str, float | None]:
    name, _, text = part.rpartition(":")
    try:
        strength = float(text)
    except ValueError:
        return part, None
    return (name, strength) if name and math.isfinite(strength) else (part, None)

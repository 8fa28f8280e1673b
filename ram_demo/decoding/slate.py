"""Which candidates of a step are worth keeping: those that people look at, and all that another setting could choose.

Pure functions over arrays. With what is kept here every step can be decided again under other strengths, gates and
modes (of the same T and noise), exactly, though N may hold hundreds and a trace keeps twenty.
"""

from collections.abc import Callable

import numpy as np
import torch

from ram_demo.decoding.decide import Decision
from ram_demo.decoding.trace import Slate

OUTSIDE = 3  # tokens that Q holds likeliest and N leaves out


def lay_out(choice: Decision, temperature: float, keep: int, word: Callable[[int], str]) -> Slate:
    """The columns of a step. keep: how many of the weightiest by Pt or pi (0: all of N); beside them come the two
    tokens that are named, every possible winner, and OUTSIDE more."""
    log_q = [q[choice.ids] for q in choice.log_q]
    has_q0 = [i for i, q0 in enumerate(choice.log_q0) if q0 is not None]
    log_q0 = [choice.log_q0[i][choice.ids] for i in has_q0]
    log_p = choice.log_p[choice.ids]
    columns = (choice.log_pt, choice.log_pi, choice.noise, choice.draws, log_p, *log_q, *log_q0)
    table = torch.stack([column.float() for column in columns]).cpu().numpy()
    log_pt, log_pi, noise, draws, log_p = table[:5]
    q, q0 = table[5 : 5 + len(log_q)], table[5 + len(log_q) :]
    n = len(log_pt)
    kept = set(range(n))
    if 0 < keep < n:
        kept = set(np.argpartition(-np.maximum(log_pt, log_pi), keep - 1)[:keep].tolist())
        kept |= {choice.chosen, choice.ids.tolist().index(choice.base_token)}
        if choice.monitors:  # something may weigh here
            kept |= possible_winners(log_pt, temperature * noise, draws, q, q0 if len(q0) == len(q) else None)
    at = sorted(kept, key=lambda i: (-log_pi[i], -log_pt[i]))
    beyond = _beyond(choice)
    ids = [*choice.ids[at].tolist(), *beyond.tolist()]

    def column(inside: np.ndarray, everywhere: torch.Tensor) -> tuple[float, ...]:
        return (*inside[at].tolist(), *everywhere[beyond].tolist())

    none = [0] * len(beyond)
    before = iter(q0)
    return Slate(
        ids=tuple(ids),
        texts=tuple(map(word, ids)),
        inside=len(at),
        log_p=column(log_p, choice.log_p),
        noise=(*noise[at].tolist(), *map(float, none)),
        draws=(*draws[at].astype(int).tolist(), *none),
        weight=(*np.exp(log_pi[at]).tolist(), *map(float, none)),
        log_q=tuple(column(mine, whole) for mine, whole in zip(q, choice.log_q, strict=True)),
        log_q0=tuple(None if whole is None else column(next(before), whole) for whole in choice.log_q0),
    )


def possible_winners(
    log_pt: np.ndarray, chance: np.ndarray, draws: np.ndarray, log_q: np.ndarray, log_q0: np.ndarray | None
) -> set[int]:
    """Every candidate that some strengths >= 0 would choose, in some mode.

    log_pt, draws [n]; chance [n]: T times the noise; log_q, log_q0 [k, n]. The token is argmax of log w + T G (9), and
    by (2)-(5) log w is a fixed part plus strengths times columns: a winner is beaten by no other in all of these.
    """
    drawn = np.flatnonzero(draws)
    found = set(_unbeaten(np.stack([log_pt + chance, *log_q])))  # product, and the base
    found |= set(_unbeaten(np.stack([chance, *log_q])))  # par
    found |= set(drawn[_unbeaten(np.stack([np.log(draws[drawn]) + chance[drawn], *log_q[:, drawn]]))].tolist())  # sis
    if log_q0 is not None:
        found |= set(_unbeaten(np.stack([log_pt + chance, *(log_q - log_q0)])))  # ratio
    return found


def _unbeaten(points: np.ndarray) -> list[int]:
    """The columns of [d, n] that no other column reaches in every row (the Pareto front)."""
    left, found = np.arange(points.shape[1]), []
    while len(left):
        # The one with the greatest sum is unbeaten among these; whatever it reaches in every row is beaten.
        best = left[points[:, left].sum(0).argmax()]
        found.append(int(best))
        left = left[(points[:, left] > points[:, [best]]).any(0)]
    return found


def _beyond(choice: Decision) -> torch.Tensor:
    """The ids, int64 [<= OUTSIDE], that the aligners together hold likeliest outside N, likeliest first."""
    outside = sum(choice.log_q).index_fill(0, choice.ids, -torch.inf)
    values, ids = outside.topk(min(OUTSIDE, len(outside)))
    return ids[torch.isfinite(values)]

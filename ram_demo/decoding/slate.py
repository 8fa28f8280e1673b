"""Which candidates of a step are worth keeping: those that people look at, and all that another setting could choose.

Pure functions over arrays. With what is kept here every step can be decided again under other strengths, gates and
modes (of the same T and noise), exactly, though N may hold hundreds and a trace keeps twenty.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from ram_demo.decoding.decide import Decision
from ram_demo.decoding.trace import Slate

OUTSIDE, WANTED = 3, 0.002  # so many of those that Q gives at least so much, and N leaves out


def lay_out(choice: Decision, temperature: float, keep: int, word: Callable[[int], str]) -> Slate:
    """The columns of a step. keep: how many of the weightiest by Pt or pi (0: all of N); beside them come the two
    tokens that are named, every possible winner, and OUTSIDE more."""
    beyond = _beyond(choice)
    everyone = torch.cat([choice.ids, beyond])
    has_q0 = [q0 for q0 in choice.log_q0 if q0 is not None]
    whole = torch.stack([column[everyone] for column in (choice.log_p, *choice.log_q, *has_q0)]).cpu().numpy()
    table = torch.stack([choice.log_pt, choice.log_pi, choice.noise, choice.draws.float()]).cpu().numpy()
    log_pt, log_pi, noise, draws = table
    n, k = len(log_pt), len(choice.log_q)
    kept = set(range(n))
    if 0 < keep < n:
        kept = set(np.argpartition(-np.maximum(log_pt, log_pi), keep - 1)[:keep].tolist())
        kept |= {choice.chosen, choice.ids.tolist().index(choice.base_token)}
        if choice.monitors:  # something may weigh here
            q, q0 = whole[1 : 1 + k, :n], whole[1 + k :, :n] if len(has_q0) == k else None
            kept |= possible_winners(log_pt, temperature * noise, draws, q, q0)
    at = sorted(kept, key=lambda i: (-log_pi[i], -log_pt[i]))
    ids = everyone[[*at, *range(n, len(everyone))]].tolist()
    log_p, *voices = np.concatenate([whole[:, at], whole[:, n:]], axis=1).tolist()
    weight = np.exp(log_pi[at])
    none = (0,) * len(beyond)
    before = iter(voices[k:])
    return Slate(
        ids=tuple(ids),
        texts=tuple(map(word, ids)),
        inside=len(at),
        log_p=tuple(log_p),
        noise=(*noise[at].tolist(), *map(float, none)),
        draws=(*draws[at].astype(int).tolist(), *none),
        weight=(*weight.tolist(), *map(float, none)),
        log_q=tuple(map(tuple, voices[:k])),
        log_q0=tuple(None if q0 is None else tuple(next(before)) for q0 in choice.log_q0),
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
    if len(points) == 2:  # of one aligner, so at every step: those that stand above all that lie further right
        order = np.argsort(-points[0])
        height = points[1][order]
        above = np.append(True, height[1:] > np.maximum.accumulate(height)[:-1])
        return order[above].tolist()
    left, found = np.arange(points.shape[1]), []
    while len(left):
        # The one with the greatest sum is unbeaten among these; whatever it reaches in every row is beaten.
        best = left[points[:, left].sum(0).argmax()]
        found.append(int(best))
        left = left[(points[:, left] > points[:, [best]]).any(0)]
    return found


def _beyond(choice: Decision) -> torch.Tensor:
    """The ids, int64 [<= OUTSIDE], outside N that the aligners together want, likeliest first."""
    together = choice.log_q[0] if len(choice.log_q) == 1 else sum(choice.log_q) - choice.compose
    wanted = (together > math.log(WANTED)).index_fill_(0, choice.ids, False).nonzero()[:, 0]
    return wanted[together[wanted].argsort(descending=True)][:OUTSIDE]

"""Aligning and reducing: from what P and Q say of the candidates to the distribution that is sampled (formulas 2-6).

Pure functions over log-probabilities in float32, restricted to the candidates. Nothing here knows where they come from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MODES = ("product", "sis", "par", "ratio")


def log_weights(
    mode: str, log_pt: Tensor, log_q: Sequence[Tensor], beta: Sequence[float], log_q0: Sequence[Tensor], counts: Tensor
) -> Tensor:
    """Unnormalised log pi over the candidates, before the final temperature.

    log_pt [n]; log_q: one [n] for each aligner that weighs here, and beta its strength; log_q0 [n] likewise (`ratio`);
    counts [n]: how often each candidate was drawn (`sis`).

        product  log Pt + sum_i beta_i log Q_i               (2)
        sis      log count + sum_i beta_i log Q_i            (3)
        par      sum_i beta_i log Q_i                        (4)
        ratio    log Pt + sum_i beta_i (log Q_i - log Q0_i)  (5)
    """
    push = sum(b * q for b, q in zip(beta, log_q, strict=True))
    if mode == "product":
        return log_pt + push
    if mode == "sis":
        return counts.log() + push
    if mode == "par":
        return push
    if mode == "ratio":
        return log_pt + push - sum(b * q0 for b, q0 in zip(beta, log_q0, strict=True))
    raise ValueError(f"unknown mode {mode!r}")


def sharpen(log_pi: Tensor, temperature: float) -> Tensor:
    """The final temperature: log of pi ∝ pi^(1/T), normalised, float32 [n]. T = 0: the mode of pi alone."""
    if temperature < 1e-6:  # below it float32 overflows
        best = torch.full_like(log_pi, -torch.inf)
        best[log_pi.argmax()] = 0.0
        return best
    return torch.log_softmax((log_pi - log_pi.max()) / temperature, -1)


def compose(log_q: Sequence[Tensor]) -> Tensor:
    """What several aligners say together: log of the product of their Q, normalised over the vocabulary. [V]"""
    return log_q[0] if len(log_q) == 1 else torch.log_softmax(sum(log_q), -1)

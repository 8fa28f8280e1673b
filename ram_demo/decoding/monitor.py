"""Watching the aligner: how far it stands from the proposal, and whether the proposal offers what it wants.

Formulas 7 and 8. Pure functions over tensors, in float32: in bfloat16 the error, about ±0.03, is near the thresholds.
"""

import math

import torch
from torch import Tensor

PAPER_TAU = 0.1


def kl(log_p: Tensor, log_q: Tensor) -> float:
    """KL(P_M || Q) = sum over V of P_M (log P_M - log Q), in nats, at temperature 1. log_p, log_q: float32 [V].

    Raises FloatingPointError if the aligner's logits were not numbers.
    """
    divergence = float((log_p.exp() * (log_p - log_q)).sum())
    if math.isnan(divergence):
        raise FloatingPointError("the aligner's logits are not finite")
    return max(0.0, divergence)


def is_gated(divergence: float, tau: float | None) -> bool:
    """Above tau the step falls back to Pt. None switches the gate off."""
    return tau is not None and divergence > tau


def support(log_q_on_nucleus: Tensor) -> float:
    """The aligner's probability mass inside N: sum over N of Q(v). log_q_on_nucleus: float32 [n]."""
    return float(log_q_on_nucleus.exp().sum())


def entropy(log_pi: Tensor) -> float:
    """Entropy in nats of a normalised distribution that may hold zeros. log_pi: float32 [n]."""
    return float(torch.special.entr(log_pi.exp()).sum())

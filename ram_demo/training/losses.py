"""The objectives (design, formula 10; RAM paper, arXiv 2505.19700). Pure functions over log-likelihoods.

log Q(y|x) is summed over the response's tokens, not averaged; a batch is averaged over its examples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that is not part of the response


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """log Q(y|x) of each row, summed over its response tokens.

    logits: float [B, T, V], as the model gives them; labels: int64 [B, T], the token at each position, IGNORE where it
    is prompt or padding. Position t is predicted from t - 1. Returns float32 [B].
    """
    targets = labels[:, 1:]
    picked = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    return -picked.sum(-1)


def ram_sft(chosen: Tensor, rejected: Tensor, alpha: float) -> Tensor:
    """-log Q(y+|x) + alpha * log Q(y-|x), mean over the batch; y- was sampled once from P_M. Inputs: float32 [B]."""
    return (-chosen + alpha * rejected).mean()


def sft(chosen: Tensor) -> Tensor:
    """-log Q(y+|x), mean over the batch: the baseline that `ram_sft` is at alpha = 0."""
    return torch.mean(-chosen)

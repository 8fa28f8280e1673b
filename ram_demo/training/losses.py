"""The objectives (design, formula 10; RAM paper, arXiv 2505.19700). Pure functions over log-likelihoods.

log Q(y|x) is summed over the response's tokens, not averaged; a batch is averaged over its examples. Every function
gives one loss for each example, float32 [B].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # label of a position that is not part of the response


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """log Q of each token under its logits. logits: float [N, V]; tokens: int64 [N]. Returns float32 [N]."""
    return -F.cross_entropy(logits.float(), tokens, reduction="none")


def sft(chosen: Tensor) -> Tensor:
    """-log Q(y+|x): the baseline that `ram_sft` is at alpha = 0. chosen: log Q(y+|x), float32 [B]."""
    return -chosen


def ram_sft(chosen: Tensor, rejected: Tensor, alpha: float) -> Tensor:
    """-log Q(y+|x) + alpha * log Q(y-|x); y- was sampled once from P_M."""
    return -chosen + alpha * rejected


def ram_dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (log Q(y+|x) - log Q(y-|x))): no reference model, as P_M stays beside the aligner."""
    return -F.logsigmoid(beta * (chosen - rejected))


def dpo(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (the margin - the margin before training)) (Rafailov et al., arXiv 2305.18290): baseline."""
    return -F.logsigmoid(beta * ((chosen - chosen_before) - (rejected - rejected_before)))


def divergence(logits: Tensor, of_proposal: Tensor) -> Tensor:
    """KL(P_M || Q) at each place (formula 7). logits: Q's, of_proposal: P_M's, float [N, V]. Returns float32 [N]."""
    log_q, log_p = logits.float().log_softmax(-1), of_proposal.float().log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def anchor(divergence: Tensor, weight: float) -> Tensor:
    """weight * the mean of KL(P_M || Q) over an answer: for prompts where Q is to stay what P_M is. divergence: that
    mean, float32 [B]."""
    return weight * divergence


def accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Is the wanted answer the likelier one? float32 [B], 0 or 1."""
    return torch.gt(chosen, rejected).float()

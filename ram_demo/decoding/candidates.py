"""Proposing: which tokens the proposal puts forward at one step (design, formula 1). Pure functions over tensors."""

import torch
from torch import Tensor

HEADS = (256, 4096)  # tokens looked at first, and then; a nucleus that is wider still costs one full sort


def nucleus(log_p: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """N and Pt: the smallest set whose mass under P reaches top_p, cut to top_k if that is above 0.

    log_p: log softmax(l_P / T_P), float32 [V]. Returns ids int64 [n], most probable first, and log Pt float32 [n],
    renormalised on N. n is at least 1. Raises FloatingPointError if the logits were not numbers.
    """
    for head in HEADS:
        values, ids = log_p.topk(min(head, log_p.shape[-1]))
        if not torch.isfinite(values[0]):
            raise FloatingPointError("the proposal's logits are not finite")
        # At top_p = 1 it is all of V: a sum that rounds to 1 early must not cut a tail that an aligner may want.
        if (top_p < 1 and values.exp().sum() >= top_p) or 0 < top_k <= head:
            break
    else:
        values, ids = log_p.sort(descending=True, stable=True)
    # A token belongs to N if the mass before it has not reached top_p; the first always does.
    before = values.exp().cumsum(-1) - values.exp()
    size = len(ids) if top_p >= 1 else max(1, int((before < top_p).sum()))
    if top_k:
        size = min(size, top_k)
    return ids[:size], torch.log_softmax(values[:size], -1)


def draws(log_pt: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """n i.i.d. draws from Pt by inverting its cumulative sum (formula 3).

    log_pt: float32 [m]; uniforms: float64 [n] in [0, 1). Returns the distinct positions drawn, int64 [k], and how often
    each was drawn, int64 [k].
    """
    cumulative = log_pt.double().exp().cumsum(-1)
    drawn = torch.searchsorted(cumulative / cumulative[-1], uniforms.to(log_pt.device), right=True)
    return torch.unique(drawn, return_counts=True)

"""The design's formulas once more, in float64 numpy, written from the design and not from the code they check.

Tokens are plain integers, distributions are arrays over the whole vocabulary (0 outside the nucleus). Knows no tensors.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chisquare, multinomial


@dataclass(frozen=True)
class Aligner:
    """logits of Q and, for `ratio`, of Q0; strength; gate."""

    logits: np.ndarray
    beta: float = 1.0
    tau: float | None = None
    base_logits: np.ndarray | None = None


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = np.asarray(logits, np.float64) / temperature
    e = np.exp(scaled - scaled.max())
    return e / e.sum()


def kl(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    p, q = softmax(p_logits), softmax(q_logits)
    return float(np.sum(p * (np.log(p) - np.log(q))))


def nucleus(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> list[int]:
    """Formula 1 as it is said: take the most probable token again and again until the mass reaches top_p."""
    p = softmax(logits, temperature)
    taken, mass = [], 0.0
    for token in sorted(range(len(p)), key=lambda v: -p[v]):
        if taken and (mass >= top_p or (top_k and len(taken) == top_k)):
            break
        taken.append(token)
        mass += p[token]
    return taken


def restricted(p: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    out = np.zeros_like(p)
    out[list(tokens)] = p[list(tokens)]
    return out / out.sum()


def sharpened(pi: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 0:
        return (np.arange(len(pi)) == pi.argmax()).astype(float)
    powered = (pi / pi.max()) ** (1 / temperature)
    return powered / powered.sum()


def pushed(aligners: Sequence[Aligner], temperature_q: float, ratio: bool) -> np.ndarray:
    """Formula 6: the product over i of Q_i^beta_i, or of (Q_i / Q0_i)^beta_i."""
    product = 1.0
    for aligner in aligners:
        q = softmax(aligner.logits, temperature_q)
        if ratio:
            q = q / softmax(aligner.base_logits, temperature_q)
        product = product * q**aligner.beta
    return product


def weighing(p_logits: np.ndarray, aligners: Sequence[Aligner]) -> list[Aligner]:
    """Those that are not gated (formula 7)."""
    return [a for a in aligners if a.beta and (a.tau is None or kl(p_logits, a.logits) <= a.tau)]


def draws_by_enumeration(pt: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, float]]:
    """Every sequence of n i.i.d. draws: how often each token was drawn, and the probability of the sequence."""
    tokens = np.flatnonzero(pt)
    for drawn in itertools.product(tokens, repeat=n):
        yield np.bincount(drawn, minlength=len(pt)), float(np.prod(pt[list(drawn)]))


def draws_by_counts(pt: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, float]]:
    """The same, with the sequences of equal counts taken together (for n that cannot be enumerated)."""
    tokens = np.flatnonzero(pt)
    bars = itertools.combinations(range(n + len(tokens) - 1), len(tokens) - 1)
    table = np.array([np.diff((-1, *bar, n + len(tokens) - 1)) - 1 for bar in bars])
    for few, probability in zip(table, multinomial(n, pt[tokens]).pmf(table), strict=True):
        counts = np.zeros(len(pt))
        counts[tokens] = few
        yield counts, float(probability)


def distribution(p_logits: np.ndarray, aligners: Sequence[Aligner], settings, counts=None) -> np.ndarray:
    """Of the next token, over the whole vocabulary (formulas 1-7).

    counts: for `sis`, how often each token was drawn; None: averaged over all possible draws.
    """
    members = nucleus(p_logits, settings.temperature_p, settings.top_p, settings.top_k)
    pt = restricted(softmax(p_logits, settings.temperature_p), members)
    active = weighing(p_logits, aligners)
    if not active:
        return sharpened(pt, settings.temperature)
    push = pushed(active, settings.temperature_q, settings.mode == "ratio")
    if settings.mode in ("product", "ratio"):
        return sharpened(restricted(pt * push, members), settings.temperature)
    if settings.mode == "par":
        return sharpened(restricted(push, members), settings.temperature)
    if counts is not None:
        return sharpened(restricted(counts * push, np.flatnonzero(counts)), settings.temperature)
    every = draws_by_enumeration if settings.candidates <= 5 else draws_by_counts
    return sum(
        probability * sharpened(restricted(counts * push, np.flatnonzero(counts)), settings.temperature)
        for counts, probability in every(pt, settings.candidates)
    )


def p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Of a chi-square test of counts against probabilities; 0 if something impossible was seen."""
    if observed[expected == 0].any():
        return 0.0
    wanted = expected * observed.sum()
    order = np.argsort(wanted)
    # Bins that expect fewer than 5 are put together, as the test's approximation asks.
    small = int(np.searchsorted(np.cumsum(wanted[order]), 5.0)) + 1
    small = small if wanted[order][0] < 5 else 0
    groups = [order[:small], *([i] for i in order[small:])] if small else [[i] for i in order]
    seen = [observed[g].sum() for g in groups]
    hoped = [wanted[g].sum() for g in groups]
    return float(chisquare(seen, hoped).pvalue) if len(groups) > 1 else 1.0

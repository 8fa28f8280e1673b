"""Drawing: noise that every lane of a comparison shares (formula 9), and the repetition penalty. Pure functions.

The noise comes from a counter-based generator (Philox), so any position's noise is had without the ones before it, and
is the same on every machine and device.
"""

import numpy as np
import torch
from torch import Tensor

SHARED, DRAWS = 0, 1  # streams: the noise all lanes share, and the extra randomness of `sis`


def raw(seed: int, position: int, stream: int, n: int) -> np.ndarray:
    """n random words, uint64, fixed by (seed, position, stream)."""
    return np.random.Philox(key=[seed, position], counter=[0, 0, 0, stream]).random_raw(n)


def to_unit(words: np.ndarray) -> np.ndarray:
    """Random words as numbers in the open interval (0, 1), float64."""
    # 52 bits and a half: with 53 the largest would round to 1.
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def uniforms(seed: int, position: int, stream: int, n: int) -> np.ndarray:
    """n numbers in the open interval (0, 1), float64, fixed by (seed, position, stream)."""
    return to_unit(raw(seed, position, stream, n))


class SharedNoise:
    """G(seed, position, v): standard Gumbel noise of one position, computed only for the tokens asked for."""

    def __init__(self, seed: int, position: int, vocab_size: int):
        self.position, self.words = position, raw(seed, position, SHARED, vocab_size)

    def gumbel(self, ids: Tensor) -> Tensor:
        """ids: int64 [n]. Returns float32 [n] on the same device."""
        noise = -np.log(-np.log(to_unit(self.words[ids.cpu().numpy()])))
        return torch.from_numpy(noise).float().to(ids.device)


def draw(log_pi: Tensor, noise: Tensor) -> int:
    """argmax over v of log pi(v) + G(v): an exact sample of pi, and the same one wherever pi and G are the same."""
    return int((log_pi + noise).argmax())


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Raw logits with the tokens of the context made less likely: positive ones divided, negative ones multiplied.

    logits: float32 [V]; seen: int64 ids. It is applied to l_P, l_Q and l_Q0 alike. As it scales logits, their weighted
    sum (the product) is penalised just once; `ratio` still equals `par`; and weight ∝ p * q^beta holds as written.
    """
    if penalty == 1:
        return logits
    there = logits[seen]
    return logits.index_put((seen,), torch.where(there > 0, there / penalty, there * penalty))

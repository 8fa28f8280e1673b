"""What has been read before: caches, kept for the same prompt again, a conversation's next turn, a branch of an answer.

Prompts are kept as their reading made them, in whole chunks and with the logits at the end, so that an answer is the
same to the bit whether its prompt was read just now or kept. What decoding made of an answer differs from that in the
last bits; it is kept apart, by single tokens, for branches alone. Knows tokens and tensors; knows nothing of the model.
"""

from dataclasses import dataclass

from torch import Tensor

BUDGET = 256 * 2**20  # bytes


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt as one adapter read it. ids: int64 [T]; cache: [layers, 2, KV, T, D]; logits: [V], its last."""

    adapter: str | None
    ids: Tensor
    cache: Tensor
    logits: Tensor

    @property
    def bytes(self) -> int:
        return self.ids.nbytes + self.cache.nbytes + self.logits.nbytes


class Kept:
    """The prompts read last, up to a budget in bytes; the one that was longest of no use goes first. chunk: in pieces
    of how many tokens a part of one is of use."""

    def __init__(self, chunk: int, budget: int = BUDGET):
        self.chunk, self.budget = chunk, budget
        self.prompts: list[Prompt] = []  # the one used last stands last

    def restore(self, adapter: str | None, ids: Tensor, cache: Tensor, logits: Tensor) -> int:
        """Fill cache, [layers, 2, KV, capacity, D], with what is known of ids. Returns how many tokens that is.

        That is all of them, and then logits [V] is filled too, or a number of whole chunks, fewer than there are.
        """
        best, known = None, 0
        for prompt in self.prompts:
            if prompt.adapter == adapter and (same := self._known(prompt, ids)) > known:
                best, known = prompt, same
        if best:
            self.prompts.remove(best)
            self.prompts.append(best)
            cache[..., :known, :] = best.cache[..., :known, :]
            if known == len(ids):
                logits.copy_(best.logits)
        return known

    def _known(self, prompt: Prompt, ids: Tensor) -> int:
        shared = min(len(ids), len(prompt.ids))
        differs = (prompt.ids[:shared] != ids[:shared]).nonzero()
        same = int(differs[0]) if len(differs) else shared
        if same == len(ids) == len(prompt.ids):
            return same
        return min(same, len(ids) - 1) // self.chunk * self.chunk

    def add(self, adapter: str | None, ids: Tensor, cache: Tensor, logits: Tensor) -> None:
        """Keep what was just read or said. cache: [layers, 2, KV, T, D]."""
        size = ids.nbytes + cache.nbytes + logits.nbytes
        if size > self.budget or any(p.adapter == adapter and p.ids.equal(ids) for p in self.prompts):
            return
        held = sum(prompt.bytes for prompt in self.prompts)
        while held + size > self.budget:
            held -= self.prompts.pop(0).bytes
        self.prompts.append(Prompt(adapter, ids, cache.clone(), logits.clone()))

    def forget(self, adapter: str) -> None:
        self.prompts = [prompt for prompt in self.prompts if prompt.adapter != adapter]

"""y-: one answer of the frozen proposal to each prompt, sampled once and kept by content hash (RAM paper, section 3).

The sampling is the paper's: temperature 0.5, top-p 0.95, top-k 10, repetition penalty 1.05.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ram_demo.errors import StorageError

SAMPLING = {"do_sample": True, "temperature": 0.5, "top_p": 0.95, "top_k": 10, "repetition_penalty": 1.05}
BATCH = 16


def synthesize(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    end_ids: frozenset[int],
    max_new_tokens: int,
    seed: int,
    revision: str,
    cache: Path,
    progress: Callable[[int, int], None],
) -> list[list[int]]:
    """One response (ids, ending included if it came) for each prompt. progress gets prompts done and prompts in all.

    Cached under `cache` by everything that decides the answers, the proposal's content included.
    """
    recipe = json.dumps([SAMPLING, [list(p) for p in prompts], sorted(end_ids), max_new_tokens, seed, revision, BATCH])
    file = cache / "synthesis" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.json"
    if file.is_file():
        return json.loads(file.read_text())
    try:  # before the minutes of sampling, not after them
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Answers cannot be written to {file.parent}: {error.strerror or error}.") from error
    torch.manual_seed(seed)
    responses = []
    pad = min(end_ids)
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        with torch.inference_mode():
            out = model.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(end_ids),
                pad_token_id=pad,
                **SAMPLING,
            )
        responses += [_until_end(row, end_ids) for row in out[:, width:].tolist()]
        progress(len(responses), len(prompts))
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as aside:
            json.dump(responses, aside)
        os.replace(aside.name, file)
    except OSError as error:
        raise StorageError(f"Answers cannot be written to {file.parent}: {error.strerror or error}.") from error
    return responses


def _until_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    """Up to and including the first end-of-text id."""
    stop = next((i for i, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: stop + 1]

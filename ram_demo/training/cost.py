"""What a step would take with every weight of the model, as a plain trainer does it: measured on the run's batches.

Knows a model's folder and encoded examples; knows nothing of runs.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForCausalLM

from ram_demo.training.dataset import Encoded
from ram_demo.training.losses import IGNORE
from ram_demo.training.recipe import Recipe
from ram_demo.training.scoring import batches

STEPS = 4  # the first warms up


def full_step(folder: Path, accelerator: Accelerator, rows: list[Encoded], recipe: Recipe, pad: int) -> float:
    """Seconds of one optimiser step on all weights, the vocabulary projected at every position: the median of a few."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    ).to(accelerator.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0)
    found = []
    for batch in batches(rows, recipe.batch_size, recipe.seed, 0)[:STEPS]:
        began = time.perf_counter()
        picked = [rows[i] for i in batch]
        ids, mask, labels = (part.to(accelerator.device) for part in collate(picked, pad))
        with accelerator.autocast():
            loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append((time.perf_counter() - began) * recipe.accumulate)
    return statistics.median(found[1:] or found)


def collate(rows: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every conversation by itself, right-padded: ids, attention mask and labels, each int64 [B, T]; labels are IGNORE
    on prompt and padding."""
    texts = [(row.prompt, row.response) for row in rows]
    texts += [(row.prompt, row.rejected) for row in rows if row.rejected is not None]
    width = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids = torch.full((len(texts), width), pad)
    mask = torch.zeros((len(texts), width), dtype=torch.int64)
    labels = torch.full((len(texts), width), IGNORE)
    for i, (prompt, answer) in enumerate(texts):
        start, end = len(prompt), len(prompt) + len(answer)
        ids[i, :end] = torch.tensor([*prompt, *answer])
        mask[i, :end] = 1
        labels[i, start:end] = torch.tensor(answer)
    return ids, mask, labels

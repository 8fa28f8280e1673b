"""What a step would take with every weight of the model, as a plain trainer does it: measured, on the run's own batches.

Knows a model's folder and encoded examples; knows nothing of runs.
"""

import statistics
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from ram_demo.training.dataset import Encoded, collate
from ram_demo.training.recipe import Recipe
from ram_demo.training.scoring import batches, worse

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
        both = [*picked, *map(worse, picked)] if picked[0].rejected is not None else picked
        ids, mask, labels = (part.to(accelerator.device) for part in collate(both, pad))
        with accelerator.autocast():
            loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append((time.perf_counter() - began) * recipe.accumulate)
    return statistics.median(found[1:] or found)

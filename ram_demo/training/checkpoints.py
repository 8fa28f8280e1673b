"""What a run leaves: checkpoints that it can go on from, and the package as it is then. safetensors throughout.

Knows a model's trainable weights and an optimiser; knows nothing of data or losses.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from ram_demo.errors import UserError
from ram_demo.models import lora
from ram_demo.models.aligners import Card, write_card
from ram_demo.training.folder import write_json

WEIGHTS, OPTIMISER, STATE = "trained.safetensors", "optimiser.safetensors", "state.json"


@dataclass
class State:
    """Where a run stands. step: optimiser steps taken; seconds: spent on them; best: lowest held-out loss so far;
    looks: what was seen of the held-out examples before the first step, and last."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float | None = None
    looks: dict = field(default_factory=dict)

    def look(self, seen: dict, examples: int) -> None:
        rounded = {name: None if value is None else round(value, 4) for name, value in seen.items()}
        self.looks = {"examples": examples, "before": rounded, **self.looks, "after": rounded}


def save(model: nn.Module, optimiser: torch.optim.Optimizer, state: State, folder: Path) -> None:
    """Everything that going on needs; the weights in full precision."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    save_file({name: p.detach().contiguous() for name, p in trained.items()}, folder / WEIGHTS)
    moments = {
        f"{name}|{key}": value.detach().contiguous()
        for name, p in trained.items()
        for key, value in optimiser.state.get(p, {}).items()
    }
    save_file(moments, folder / OPTIMISER)
    write_json(folder / STATE, asdict(state))


def load(model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path) -> State:
    """Put a model and its optimiser where the checkpoint left them. Raises UserError if it is of another model."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights, moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMISER)
    if weights.keys() != trained.keys():
        raise UserError(f"The checkpoint {folder.name} is of another model or recipe than this run's.")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(weights[name])
    for key, value in moments.items():
        name, what = key.rsplit("|", 1)
        p = trained[name]
        optimiser.state[p][what] = value if what == "step" else value.to(p.device)
    return State(**json.loads((folder / STATE).read_text()))


def write_package(model: nn.Module, card: Card, folder: Path) -> None:
    """The aligner's package in an empty folder. An adapter is float16: half the size, 11 bits of mantissa."""
    if isinstance(model, PeftModel):
        tensors = {k: v.to(torch.float16).contiguous() for k, v in get_peft_model_state_dict(model).items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise UserError("The training diverged: the weights it left are not finite. Lower learning_rate.")
        save_file(tensors, folder / lora.WEIGHTS, metadata={"format": "pt"})
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.inference_mode = card.base, True
        config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    write_card(folder, card)

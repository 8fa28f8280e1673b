"""What a run leaves: checkpoints that it can go on from, and the package as it is then. safetensors throughout.

Knows a model's trainable weights and an optimiser; knows nothing of data or losses.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ram_demo.errors import UserError
from ram_demo.models import lora
from ram_demo.models.aligners import Card, write_card
from ram_demo.training.folder import write_json

WEIGHTS, OPTIMISER, STATE = "trained.safetensors", "optimiser.safetensors", "state.json"


@dataclass
class State:
    """Where a run stands. step: optimiser steps taken; seconds: spent on them; best: the least loss of a
    checkpoint on held-out examples; looks: what was seen of the held-out examples before the first step, and last."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float | None = None
    looks: dict = field(default_factory=dict)

    def look(self, seen: dict, examples: int) -> None:
        rounded = {name: None if value is None else round(value, 4) for name, value in seen.items()}
        self.looks = {"examples": examples, "before": rounded, **self.looks, "after": rounded}


def parts(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What going on needs, by file: the weights that are trained, in full precision, and the optimiser's moments.

    Where processes hold a share each (FSDP), all of them must ask; each gets the whole.
    """
    trained = _trained(model)
    return {
        WEIGHTS: {name: _whole(p) for name, p in trained.items()},
        OPTIMISER: {
            f"{name}|{key}": _whole(value)
            for name, p in trained.items()
            for key, value in optimiser.state.get(p, {}).items()
        },
    }


def save(found: dict[str, dict[str, Tensor]], state: State, folder: Path) -> None:
    """found: from `parts`."""
    for file, tensors in found.items():
        save_file(tensors, folder / file)
    write_json(folder / STATE, asdict(state))


def load(model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path) -> State:
    """Put a model and its optimiser where the checkpoint left them. Raises UserError if it is of another model."""
    trained = _trained(model)
    weights, moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMISER)
    if weights.keys() != trained.keys():
        raise UserError(f"The checkpoint {folder.name} is of another model or recipe than this run's.")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(_as(p, weights[name]))
    for key, value in moments.items():
        name, what = key.rsplit("|", 1)
        optimiser.state[trained[name]][what] = value if what == "step" else _as(trained[name], value)
    return State(**json.loads((folder / STATE).read_text()))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the model's names; of an adapter all, also what stands still (`contrast.py`)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad or "lora_" in name}


def _whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered if it is spread over processes."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().contiguous()


def _as(p: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor placed as the weight p is: on its device, and spread as it is."""
    whole = whole.to(p.device)
    return distribute_tensor(whole, p.device_mesh, p.placements) if isinstance(p, DTensor) else whole


def write_package(model: nn.Module, weights: dict[str, Tensor], card: Card, folder: Path) -> None:
    """The aligner's package in an empty folder. An adapter is float16: half the size, 11 bits of mantissa. weights: the
    trained ones, whole, by the model's names (`parts`)."""
    if isinstance(model, PeftModel):
        adapter = get_peft_model_state_dict(model, state_dict=weights)
        tensors = {k: v.to(torch.float16) for k, v in adapter.items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise UserError("The training diverged: the weights it left are not finite. Lower learning_rate.")
        save_file(tensors, folder / lora.WEIGHTS, metadata={"format": "pt"})
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.inference_mode = card.base, True
        config.target_modules = sorted(config.target_modules)  # a set comes in another order in every process
        config.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=weights)
    write_card(folder, card)

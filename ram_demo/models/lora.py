"""Read a PEFT LoRA folder as what it is: pairs of matrices, by layer and projection. Runs nothing.

Both engines take the same adapters, and refuse the same ones here: only plain LoRA can be a row of a shared batch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from ram_demo.errors import UserError
from ram_demo.models.sources import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEY = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
# Options of LoRA that change more than `W x + scale * B A x`, with the value that switches each off.
UNSUPPORTED = {
    "use_dora": False,
    "modules_to_save": None,
    "layer_replication": None,
    "lora_bias": False,
    "trainable_token_indices": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "target_parameters": None,
}


@dataclass(frozen=True)
class Pair:
    """One projection's adapter: y += up @ (down @ x). down: [r, in], up: [out, r], the scale already in `up`."""

    down: torch.Tensor
    up: torch.Tensor


def read_config(folder: Path) -> LoraConfig:
    """The adapter's configuration. Raises UserError for anything but plain LoRA."""
    raw = read_json(folder / CONFIG)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UserError(f"This adapter is of kind {kind or 'unknown'}; only LoRA adapters can be used.")
    for option, off in UNSUPPORTED.items():
        if raw.get(option) not in (off, None, [], {}):
            raise UserError(f"This adapter uses LoRA with {option}; only plain LoRA can be used.")
    try:
        known = {name: raw[name] for name in ("r", "lora_alpha", "target_modules", "use_rslora") if name in raw}
        patterns = {name: raw.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
        config = LoraConfig(**known, **patterns, base_model_name_or_path=raw.get("base_model_name_or_path"))
        if not (isinstance(config.r, int) and config.r > 0 and isinstance(config.lora_alpha, (int, float))):
            raise ValueError("r and lora_alpha must be positive numbers")
    except (TypeError, ValueError) as error:
        raise UserError(f"{CONFIG} is not a valid LoRA configuration: {error}.") from error
    return config


def read_pairs(folder: Path) -> Mapping[str, Pair]:
    """{module path, such as "model.layers.0.self_attn.q_proj": Pair in float32}. Raises UserError if unreadable."""
    config = read_config(folder)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in read_tensors(folder / WEIGHTS).items():
        match = KEY.fullmatch(key)
        if match is None:
            raise UserError(f"{WEIGHTS} holds {key}, which is not part of a plain LoRA adapter.")
        halves.setdefault(match["module"], {})[match["side"]] = tensor.float()
    pairs = {}
    for module, sides in halves.items():
        if set(sides) != {"A", "B"} or sides["A"].ndim != 2 or sides["A"].shape[0] != sides["B"].shape[-1]:
            raise UserError(f"{WEIGHTS} is incomplete at {module}.")
        pairs[module] = Pair(sides["A"], sides["B"] * _scale(config, module))
    if not pairs:
        raise UserError(f"{WEIGHTS} holds no adapter.")
    return pairs


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises UserError if it is missing, truncated or something else renamed."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file.name} is missing; pickles (.bin, .pt) are refused.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file.name} is damaged or not a safetensors file ({error}).") from error


def _scale(config: LoraConfig, module: str) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, with PEFT's own per-module overrides."""
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    return alpha / (rank**0.5 if config.use_rslora else rank)

"""Read a PEFT LoRA folder as what it is: pairs of matrices, by layer and projection. Runs nothing.

Both engines take the same adapters, and refuse the same ones here: only plain LoRA can be a row of a shared batch.
"""

import math
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
# The options that leave it at `W x + scale * B A x`. Any other, and any that PEFT may add, must be switched off.
PLAIN = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
    *(
        "layers_to_transform",
        "layers_pattern",
        "lora_dropout",
        "inference_mode",
        "runtime_config",
        "ensure_weight_tying",
    ),
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_type", "peft_version"),
    # Said, but meaning nothing by themselves.
    *("megatron_core", "qalora_group_size", "loftq_config", "eva_config"),
}
OFF = (None, False, "none", [], {})
# How A and B began is of no matter, unless the base's own weights were changed with them.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


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
    for option, value in raw.items():
        plain = value in PLAIN_BEGINNINGS if option == "init_lora_weights" else option in PLAIN or value in OFF
        if not plain:
            raise UserError(f"This adapter uses LoRA with {option}; only plain LoRA can be used.")
    try:
        known = {name: raw[name] for name in ("r", "lora_alpha", "target_modules", "use_rslora") if name in raw}
        patterns = {name: raw.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
        config = LoraConfig(**known, **patterns, base_model_name_or_path=raw.get("base_model_name_or_path"))
        ranks = [config.r, *config.rank_pattern.values()]
        alphas = [config.lora_alpha, *config.alpha_pattern.values()]
        if not all(isinstance(r, int) and r > 0 for r in ranks):
            raise ValueError("a rank must be a positive whole number")
        if not all(isinstance(a, (int, float)) and math.isfinite(a) for a in alphas):
            raise ValueError("lora_alpha must be a number")
        if not isinstance(config.target_modules, str | set | None):
            raise ValueError("target_modules must be names")
        for pattern in [*config.rank_pattern, *config.alpha_pattern]:
            re.compile(pattern)
    except (TypeError, ValueError, AttributeError, re.error) as error:
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
        if not torch.isfinite(tensor.float()).all():
            raise UserError(f"{WEIGHTS} holds numbers that are not finite, in {key}.")
        halves.setdefault(match["module"], {})[match["side"]] = tensor.float()
    pairs = {}
    for module, sides in halves.items():
        if set(sides) != {"A", "B"} or any(side.ndim != 2 for side in sides.values()):
            raise UserError(f"{WEIGHTS} is incomplete at {module}.")
        rank, scale = _rank_and_scale(config, module)
        if not sides["A"].shape[0] == sides["B"].shape[1] == rank:
            raise UserError(f"{WEIGHTS} has not the rank that {CONFIG} says, {rank}, at {module}.")
        pairs[module] = Pair(sides["A"], sides["B"] * scale)
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


def _rank_and_scale(config: LoraConfig, module: str) -> tuple[int, float]:
    """r, and alpha / r or alpha / sqrt(r) for rank-stabilised LoRA, with PEFT's own per-module overrides."""
    rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    return rank, alpha / (rank**0.5 if config.use_rslora else rank)

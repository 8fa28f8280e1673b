"""The tensors of a model folder, one file or many shards, each read when asked for. Knows safetensors, no model."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ram_demo.errors import UserError
from ram_demo.models.sources import read_json


class Weights:
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        self.folder, self.device, self.dtype = folder, device, dtype
        index = folder / "model.safetensors.index.json"
        named = read_json(index).get("weight_map") if index.is_file() else {"": "model.safetensors"}
        if not (isinstance(named, dict) and all(isinstance(name, str) for name in named.values())):
            raise UserError(f"{index.name} of {folder.name} does not say which file holds which tensor.")
        files = set(named.values())
        self.where = {}
        for name in sorted(files):
            try:
                opened = safe_open(folder / name, framework="pt")
            except FileNotFoundError:
                raise UserError(f"{folder.name} has no {name}; only safetensors weights are loaded.") from None
            except (SafetensorError, OSError) as error:
                raise UserError(f"{name} is damaged or not a safetensors file ({error}).") from error
            self.where |= dict.fromkeys(opened.keys(), opened)

    def __contains__(self, key: str) -> bool:
        return key in self.where

    def get(self, key: str) -> Tensor | None:
        return self.where[key].get_tensor(key).to(self.device, self.dtype) if key in self.where else None

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Raises UserError if the tensor is missing or of another shape than the configuration says."""
        tensor = self.get(key)
        if tensor is None or tuple(tensor.shape) != shape:
            there = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}, not {shape}"
            raise UserError(f"The weights in {self.folder.name} do not fit its config.json: {key} is {there}.")
        return tensor

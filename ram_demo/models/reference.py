"""The same rows through transformers and PEFT: the reference for `lean`, and the path of every other architecture.

Row-wise adapters are PEFT's mixed batches (`adapter_names`). Slower than `lean`, and kept because others maintain it.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from ram_demo.errors import UserError
from ram_demo.models.lora import read_pairs

CHUNK = 256  # tokens of a prompt that are read at a time: between two pieces others take their steps
NO_ADAPTER = "__base__"  # PEFT's name for a row without one


@dataclass
class ReferenceRows:
    cache: DynamicCache
    adapters: tuple[str | None, ...]


class ReferenceModel:
    """Any causal LM that transformers loads from safetensors (see `language_model.LanguageModel`)."""

    engine = "transformers"

    def __init__(self, folder: Path, device: torch.device, form: str):
        dtype = getattr(torch, form)
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            if loading["missing_keys"]:  # transformers would go on with random numbers there
                raise ValueError(f"its weights lack {min(loading['missing_keys'])}")
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{folder.name} cannot be loaded as a causal language model: {why}.") from error
        self.model = model.to(device).eval().requires_grad_(False)
        self.shapes = {
            name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)
        }
        self.device, self.precision = device, str(dtype).removeprefix("torch.")
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None) or config.n_positions
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.bytes_per_token = config.num_hidden_layers * 2 * heads * width * dtype.itemsize

    def add_adapter(self, name: str, folder: Path) -> None:
        # All is checked before PEFT begins: it changes the model in place, and would leave it so when it fails.
        for module, pair in read_pairs(folder).items():
            if module not in self.shapes:
                raise UserError(f"The adapter changes {module}, which this model does not have or cannot adapt.")
            if (pair.up.shape[0], pair.down.shape[1]) != self.shapes[module]:
                raise UserError(f"The adapter's shapes do not fit this model at {module}.")
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(folder, adapter_name=_inside(name))
            else:
                self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=_inside(name)).eval()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"The adapter does not fit this model: {str(error).splitlines()[0]}") from error

    def remove_adapter(self, name: str) -> None:
        if len(self.model.peft_config) == 1:
            self.model = self.model.unload()
        else:
            self.model.delete_adapter(_inside(name))

    @torch.inference_mode()
    def prefill(
        self, ids: Sequence[int], adapters: Sequence[str | None], room: int, is_branch: bool = False
    ) -> Generator[None, None, tuple[Tensor, ReferenceRows]]:
        rows = ReferenceRows(DynamicCache(config=self.model.config), tuple(adapters))
        for piece in torch.tensor(ids, device=self.device).split(CHUNK):
            logits = self._forward(piece.repeat(len(adapters), 1), rows)
            yield
        return logits, rows

    @torch.inference_mode()
    def step(self, tokens: Tensor, groups: Sequence[ReferenceRows]) -> Tensor:
        """Group after group: transformers' own caches hold sequences of one length."""
        before = [rows.cache.get_seq_length() for rows in groups]
        each = tokens[:, None].split([len(rows.adapters) for rows in groups])
        try:
            return torch.cat([self._forward(mine, rows) for mine, rows in zip(each, groups, strict=True)])
        except BaseException:
            for rows, length in zip(groups, before, strict=True):
                rows.cache.crop(length)
            raise

    def keep(self, rows: ReferenceRows, row: int, ids: Sequence[int], logits: Tensor) -> None:
        """Nothing is kept here: a branch reads again."""

    def select(self, rows: ReferenceRows, index: Sequence[int]) -> ReferenceRows:
        if list(index) != list(range(len(rows.adapters))):
            rows.cache.batch_select_indices(torch.tensor(index, device=self.device))
        return ReferenceRows(rows.cache, tuple(rows.adapters[i] for i in index))

    def _forward(self, tokens: Tensor, rows: ReferenceRows) -> Tensor:
        named = {}
        if isinstance(self.model, PeftModel):
            named = {"adapter_names": [_inside(adapter) if adapter else NO_ADAPTER for adapter in rows.adapters]}
        out = self.model(tokens, past_key_values=rows.cache, use_cache=True, logits_to_keep=1, **named)
        return out.logits[:, -1].float()


def _inside(name: str) -> str:
    """An adapter's name as PEFT can hold it: as a part of a module's path it may have no full stop."""
    return name.replace(".", "\N{ONE DOT LEADER}")

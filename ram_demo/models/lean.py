"""A Llama-family forward without wrappers: the path that decoding runs on. One room, to be read from top to bottom.

It knows the layer's arithmetic and how rows with different adapters share one pass. It knows nothing of tokenizers,
lanes or sampling. `reference.py` is the same interface through transformers; tests hold the two to 1e-4 in float32.

What makes it quick on two cores: query/key/value and gate/up are one product each, the cache is allocated once, the
adapter costs its own bytes only, and on x86 the weights are kept in float16 for FBGEMM, which reads half the bytes of
float32 and still multiplies in float32 (a bfloat16 product without AVX-512 is several times slower).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ram_demo.errors import UserError
from ram_demo.models.lora import Pair, read_pairs
from ram_demo.models.sources import read_json

FAMILIES = ("llama", "qwen2", "qwen3")
PLAIN_ROPE = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length


def supports(config: PretrainedConfig) -> bool:
    """Is this architecture computed here exactly? Everything else goes through transformers."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in FAMILIES
        and config.hidden_act == "silu"
        and not getattr(config, "use_sliding_window", False)
        and rope.get("rope_type", "default") in PLAIN_ROPE
        and getattr(config, "quantization_config", None) is None
    )


def has_packed_float16() -> bool:
    """FBGEMM's float16 product exists only in x86 builds of torch."""
    return "fbgemm" in torch.backends.quantized.supported_engines


class Product:
    """x -> x @ W.T + b for a frozen W [out, in], in one of three weight formats."""

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool):
        self.packed = packed
        if packed:
            self.weight = torch.ops.quantized.linear_prepack_fp16(
                weight.float(), None if bias is None else bias.float()
            )
        else:
            self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            return torch.ops.quantized.linear_dynamic_fp16(x, self.weight)
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Layer:
    norm_attention: Tensor  # [E]
    qkv: Product  # E -> (H + 2 KV) * D
    norm_q: Tensor | None  # [D], Qwen3 only
    norm_k: Tensor | None
    out: Product  # H * D -> E
    norm_mlp: Tensor  # [E]
    gate_up: Product  # E -> 2 * I
    down: Product  # I -> E


@dataclass
class LeanRows:
    """keys and values: per layer [R, KV, capacity, D], filled up to `length`; `groups`: rows by adapter."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    adapters: tuple[str | None, ...]
    groups: dict[str, Tensor] = field(init=False)

    def __post_init__(self):
        named = {name for name in self.adapters if name is not None}
        self.groups = {
            name: torch.tensor([i for i, a in enumerate(self.adapters) if a == name], device=self.keys[0].device)
            for name in sorted(named)
        }


# The projections that are computed together, and where each stands in the layer.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class LeanModel:
    """A frozen Llama-family model with row-wise LoRA adapters (see `language_model.LanguageModel`)."""

    engine = "lean"

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        config = AutoConfig.from_pretrained(folder)
        packed = dtype == torch.float16 and device.type == "cpu"
        self.device, self.compute = device, torch.float32 if packed else dtype
        self.precision = "float16 weights, float32 arithmetic" if packed else str(dtype).removeprefix("torch.")
        self.context = config.max_position_embeddings
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.adapters: dict[str, list[dict[str, Pair]]] = {}

        weights = _Weights(folder, device, self.compute)

        width, queries, keys = config.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.shapes = {  # of each projection, [out, in]
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (config.intermediate_size, width),
            "mlp.up_proj": (config.intermediate_size, width),
            "mlp.down_proj": (width, config.intermediate_size),
        }

        def product(prefix: str, names: Sequence[str]) -> Product:
            bias = [weights.get(f"{prefix}{n}.bias") for n in names]
            return Product(
                torch.cat([weights.take(f"{prefix}{n}.weight", self.shapes[n]) for n in names]),
                torch.cat(bias) if bias[0] is not None else None,
                packed,
            )

        self.layers = []
        for i in range(config.num_hidden_layers):
            at = f"model.layers.{i}."
            self.layers.append(
                Layer(
                    norm_attention=weights.take(at + "input_layernorm.weight", (width,)),
                    norm_q=weights.get(at + "self_attn.q_norm.weight"),
                    norm_k=weights.get(at + "self_attn.k_norm.weight"),
                    norm_mlp=weights.take(at + "post_attention_layernorm.weight", (width,)),
                    **{name: product(at, parts) for name, parts in FUSED.items()},
                )
            )
        self.embedding = weights.take("model.embed_tokens.weight", (config.vocab_size, width))
        self.norm = weights.take("model.norm.weight", (width,))
        tied = config.tie_word_embeddings
        head = self.embedding if tied else weights.take("lm_head.weight", (config.vocab_size, width))
        self.head = Product(head, None, packed)
        self.vocab_size = head.shape[0]
        # transformers' own table of angles, so every rope variant is theirs: cos and sin, each [context, D].
        rotary = LlamaRotaryEmbedding(config).to(device)
        positions = torch.arange(self.context, device=device)[None]
        self.cos, self.sin = (t[0] for t in rotary(torch.zeros(1, dtype=self.compute, device=device), positions))

    # Adapters ---------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, folder: Path) -> None:
        pairs = dict(read_pairs(folder))
        layers = []
        for i in range(len(self.layers)):
            fused = {}
            for product, parts in FUSED.items():
                mine = {part: pairs.pop(f"model.layers.{i}.{part}", None) for part in parts}
                if any(mine.values()):
                    fused[product] = self._fuse(mine)
            layers.append(fused)
        if pairs:
            raise UserError(f"The adapter changes {next(iter(pairs))}, which this model does not have or cannot adapt.")
        self.adapters[name] = layers

    def _fuse(self, parts: dict[str, Pair | None]) -> Pair:
        """Several projections' pairs as one: the downs stacked, the ups on a diagonal of blocks."""
        for part, pair in parts.items():
            if pair and (pair.up.shape[0], pair.down.shape[1]) != self.shapes[part]:
                raise UserError(f"The adapter's shapes do not fit this model at {part}.")
        down = torch.cat([pair.down for pair in parts.values() if pair])
        up = torch.block_diag(*(pair.up if pair else torch.zeros(self.shapes[p][0], 0) for p, pair in parts.items()))
        return Pair(*(t.to(self.device, self.compute).contiguous() for t in (down, up)))

    def remove_adapter(self, name: str) -> None:
        del self.adapters[name]

    # The forward ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], adapters: Sequence[str | None], room: int) -> tuple[Tensor, LeanRows]:
        shape = (len(adapters), self.kv_heads, len(ids) + room, self.head_dim)
        keys, values = (
            [torch.empty(shape, dtype=self.compute, device=self.device) for _ in self.layers] for _ in range(2)
        )
        rows = LeanRows(keys, values, 0, tuple(adapters))
        tokens = torch.tensor(ids, device=self.device).expand(len(adapters), -1)
        return self._forward(tokens, rows), rows

    @torch.inference_mode()
    def step(self, tokens: Tensor, rows: LeanRows) -> Tensor:
        return self._forward(tokens[:, None], rows)

    def select(self, rows: LeanRows, index: Sequence[int]) -> LeanRows:
        if list(index) == list(range(len(rows.adapters))):
            return rows
        at = torch.tensor(index, device=self.device)
        for cache in (rows.keys, rows.values):
            for i, tensor in enumerate(cache):  # one layer at a time, so the old and new never both exist whole
                cache[i] = tensor[at]
        return LeanRows(rows.keys, rows.values, rows.length, tuple(rows.adapters[i] for i in index))

    def _forward(self, tokens: Tensor, rows: LeanRows) -> Tensor:
        """tokens: int64 [R, T], at positions from `length` on. Returns the last position's logits, float32 [R, V]."""
        R, T = tokens.shape
        start, end = rows.length, rows.length + T
        cos, sin = self.cos[start:end, None], self.sin[start:end, None]  # [T, 1, D], over [R, T, heads, D]
        H, KV, D = self.heads, self.kv_heads, self.head_dim
        x = F.embedding(tokens, self.embedding)
        for i, layer in enumerate(self.layers):
            h = self._norm(x, layer.norm_attention)
            qkv = self._product(h, layer.qkv, "qkv", i, rows).view(R, T, H + 2 * KV, D)
            q, k, v = qkv[:, :, :H], qkv[:, :, H : H + KV], qkv[:, :, H + KV :]
            if layer.norm_q is not None:
                q, k = self._norm(q, layer.norm_q), self._norm(k, layer.norm_k)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            rows.keys[i][:, :, start:end] = k.transpose(1, 2)
            rows.values[i][:, :, start:end] = v.transpose(1, 2)
            keys, values = rows.keys[i][:, :, :end], rows.values[i][:, :, :end]
            if T == 1:  # the heads that share a key stand as the queries of one head, so nothing is copied
                a = F.scaled_dot_product_attention(q.view(R, KV, H // KV, D), keys, values).view(R, 1, H * D)
            else:
                a = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, is_causal=True, enable_gqa=True)
                a = a.transpose(1, 2).reshape(R, T, H * D)
            x = x + self._product(a, layer.out, "out", i, rows)
            h = self._norm(x, layer.norm_mlp)
            gate, up = self._product(h, layer.gate_up, "gate_up", i, rows).chunk(2, -1)
            x = x + self._product(F.silu(gate) * up, layer.down, "down", i, rows)
        rows.length = end
        return self.head(self._norm(x[:, -1], self.norm)).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (weight.shape[0],), weight, self.epsilon)

    def _product(self, x: Tensor, frozen: Product, name: str, layer: int, rows: LeanRows) -> Tensor:
        """The frozen product for every row, plus each adapter's own for the rows that use it. x: [R, T, in]."""
        y = frozen(x)
        for adapter, index in rows.groups.items():
            pair = self.adapters[adapter][layer].get(name)
            if pair is not None:
                y.index_add_(0, index, F.linear(F.linear(x[index], pair.down), pair.up))
        return y


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class _Weights:
    """The tensors of a model folder, one file or many shards, each read when asked for."""

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

    def get(self, key: str) -> Tensor | None:
        return self.where[key].get_tensor(key).to(self.device, self.dtype) if key in self.where else None

    def take(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Raises UserError if the tensor is missing or of another shape than the configuration says."""
        tensor = self.get(key)
        if tensor is None or tuple(tensor.shape) != shape:
            there = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}, not {shape}"
            raise UserError(f"The weights in {self.folder.name} do not fit its config.json: {key} is {there}.")
        return tensor

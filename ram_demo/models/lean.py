"""A Llama-family forward without wrappers: the path that decoding runs on. One room, to be read from top to bottom.

It knows the layer's arithmetic, and how rows of different people, lengths and adapters share one pass. It knows nothing
of tokenizers, lanes or sampling. `reference.py` is the same interface through transformers; tests hold the two to 1e-4.

A batch is a list of groups, one for each comparison. To the products all its tokens are one flat matrix, [N, E], so the
weights are read once for everybody; attention goes group by group, each over its own cache, so nothing is padded,
joining and leaving copy nothing, and what a row says does not depend on its company.

What makes it quick on two cores: query/key/value and gate/up are one product each, rope is one complex product in
place, the cache is allocated once and takes keys and values in one copy, and weights have few bytes (`formats.py`).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ram_demo.errors import UserError
from ram_demo.models import formats
from ram_demo.models.formats import Frozen
from ram_demo.models.lora import Pair, read_pairs
from ram_demo.models.prefixes import Kept
from ram_demo.models.weights import Weights

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


CHUNK = 64  # tokens of a prompt that are read at a time: between two chunks others take their steps


@dataclass(frozen=True)
class Layer:
    norm_attention: Tensor  # [E]
    qkv: Frozen  # E -> (H + 2 KV) * D
    norm_q: Tensor | None  # [D], Qwen3 only
    norm_k: Tensor | None
    out: Frozen  # H * D -> E
    norm_mlp: Tensor  # [E]
    gate_up: Frozen  # E -> 2 * I
    down: Frozen  # I -> E


@dataclass(frozen=True)
class LowRank:
    """An adapter's part in one product. down: [in, r], up: [r, out], laid out for few rows."""

    down: Tensor
    up: Tensor

    def add(self, x: Tensor, y: Tensor, tokens: slice | Tensor) -> None:
        """y += (x @ down) @ up for these tokens. A slice is one product for all of them; several by number are taken
        row by row: over more rows a product may round otherwise, and no answer is to depend on who else is here."""
        if isinstance(tokens, slice):
            y[tokens].addmm_(x[tokens] @ self.down, self.up)
        else:
            n = len(tokens)
            low = torch.bmm(x[tokens][:, None], self.down.expand(n, -1, -1))
            y[tokens] = torch.baddbmm(y[tokens][:, None], low, self.up.expand(n, -1, -1))[:, 0]


@dataclass
class LeanRows:
    """The rows of one comparison. cache: [layers, 2, R, KV, capacity, D], keys and values, filled up to `length`."""

    cache: Tensor
    adapters: tuple[str | None, ...]
    length: int = 0

    def part(self, rows: slice, length: int) -> "LeanRows":
        """Some of the rows, over the same memory."""
        return LeanRows(self.cache[:, :, rows], self.adapters[rows], length)


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

    def __init__(self, folder: Path, device: torch.device, form: str):
        """form: a format of `formats.py` or "auto"; on an accelerator, the dtype of everything."""
        config = AutoConfig.from_pretrained(folder)
        # On a CPU what flows is float32 whatever the weights are: rounding it would cost precision and save nothing.
        self.compute = torch.float32 if device.type == "cpu" else getattr(torch, form)
        self.form = form
        self.device, self.context, self.epsilon = device, config.max_position_embeddings, config.rms_norm_eps
        self.zero, self.epsilon_there = torch.zeros(1, dtype=self.compute, device=device), torch.tensor(self.epsilon)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        H, KV, D, E, I = self.heads, self.kv_heads, self.head_dim, config.hidden_size, config.intermediate_size  # noqa: E741
        self.bytes_per_token = config.num_hidden_layers * 2 * KV * D * self.compute.itemsize
        self.shapes = {  # of each projection, [out, in]
            "self_attn.q_proj": (H * D, E),
            "self_attn.k_proj": (KV * D, E),
            "self_attn.v_proj": (KV * D, E),
            "self_attn.o_proj": (E, H * D),
            "mlp.gate_proj": (I, E),
            "mlp.up_proj": (I, E),
            "mlp.down_proj": (E, I),
        }
        weights = Weights(folder, device, self.compute)

        def frozen(prefix: str, names: Sequence[str]) -> Frozen:
            parts = [self._paired(n, weights.take(f"{prefix}{n}.weight", self.shapes[n])) for n in names]
            bias = [weights.get(f"{prefix}{n}.bias") for n in names]
            bias = None if bias[0] is None else torch.cat([self._paired(*b) for b in zip(names, bias, strict=True)])
            return formats.freeze(torch.cat(parts), bias, form)

        def head_norm(name: str) -> Tensor | None:
            return _pairs_adjacent(weights.take(name, (D,)), D) if name in weights else None

        self.layers = [
            Layer(
                norm_attention=weights.take(at + "input_layernorm.weight", (E,)),
                norm_q=head_norm(at + "self_attn.q_norm.weight"),
                norm_k=head_norm(at + "self_attn.k_norm.weight"),
                norm_mlp=weights.take(at + "post_attention_layernorm.weight", (E,)),
                **{name: frozen(at, parts) for name, parts in FUSED.items()},
            )
            for at in (f"model.layers.{i}." for i in range(config.num_hidden_layers))
        ]
        self.embedding = weights.take("model.embed_tokens.weight", (config.vocab_size, E))
        self.norm = weights.take("model.norm.weight", (E,))
        tied = config.tie_word_embeddings
        head = self.embedding if tied else weights.take("lm_head.weight", (config.vocab_size, E))
        self.head = formats.freeze(head, None, form, is_head=True)
        self.vocab_size = len(head)
        kinds = dict.fromkeys(getattr(layer, name).format for layer in self.layers for name in FUSED)
        head = "" if self.head.format in kinds else f", {self.head.format} head"
        self.precision = f"{' and '.join(kinds)} weights{head}"
        # transformers' own table of angles, so every rope variant is theirs: cos + i sin, complex64
        # [context, 1, D / 2].
        rotary = LlamaRotaryEmbedding(config).to(device)
        cos, sin = rotary(torch.zeros(1, device=device), torch.arange(self.context, device=device)[None])
        self.turns = torch.complex(cos[0, :, : D // 2].float(), sin[0, :, : D // 2].float())[:, None]
        self.adapters: dict[str, list[dict[str, LowRank]]] = {}  # by layer, by product
        self.kept, self.said = Kept(CHUNK), Kept(1)  # prompts as they were read; answers as they were said

    def _paired(self, projection: str, t: Tensor) -> Tensor:
        """Queries and keys have their outputs in the order in which rope turns them."""
        return _pairs_adjacent(t, self.head_dim) if projection in FUSED["qkv"][:2] else t

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

    def _fuse(self, parts: dict[str, Pair | None]) -> "LowRank":
        """Several projections' pairs as one: the downs stacked, the ups on a diagonal of blocks."""
        for part, pair in parts.items():
            if pair and (pair.up.shape[0], pair.down.shape[1]) != self.shapes[part]:
                raise UserError(f"The adapter's shapes do not fit this model at {part}.")
        down = torch.cat([pair.down for pair in parts.values() if pair])
        ups = [self._paired(p, pair.up) if pair else torch.zeros(self.shapes[p][0], 0) for p, pair in parts.items()]
        return LowRank(*(t.T.to(self.device, self.compute).contiguous() for t in (down, torch.block_diag(*ups))))

    def remove_adapter(self, name: str) -> None:
        del self.adapters[name]
        for store in (self.kept, self.said):
            store.forget(name)

    # The forward ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(
        self, ids: Sequence[int], adapters: Sequence[str | None], room: int, is_branch: bool = False
    ) -> Generator[None, None, tuple[Tensor, LeanRows]]:
        shape = (len(self.layers), 2, len(adapters), self.kv_heads, len(ids) + room, self.head_dim)
        rows = LeanRows(torch.empty(shape, dtype=self.compute, device=self.device), tuple(adapters))
        tokens = torch.tensor(ids, device=self.device)
        logits = torch.empty(len(adapters), self.vocab_size, device=self.device)
        stores = (self.kept, self.said) if is_branch else (self.kept,)
        starts = [
            max(store.restore(name, tokens, rows.cache[:, :, r], logits[r]) for store in stores)
            for r, name in enumerate(adapters)
        ]
        for start, group in groupby(range(len(adapters)), starts.__getitem__):
            mine = list(group)
            part = rows.part(slice(mine[0], mine[-1] + 1), start)
            for at in range(start, len(ids), CHUNK):
                last = self._forward([(tokens[at : at + CHUNK].expand(len(mine), -1), part)], is_prompt=True)
                yield
            if start < len(ids):
                logits[mine] = self._say(last)
                for r in mine if not is_branch else ():
                    self.kept.add(adapters[r], tokens, rows.cache[:, :, r, :, : len(ids)], logits[r])
        rows.length = len(ids)
        return logits, rows

    @torch.inference_mode()
    def keep(self, rows: LeanRows, row: int, ids: Sequence[int], logits: Tensor) -> None:
        self.said.add(
            rows.adapters[row], torch.tensor(ids, device=self.device), rows.cache[:, :, row, :, : len(ids)], logits
        )

    @torch.inference_mode()
    def step(self, tokens: Tensor, groups: Sequence[LeanRows]) -> Tensor:
        each = tokens[:, None].split([len(rows.adapters) for rows in groups])
        return self._say(self._forward(list(zip(each, groups, strict=True)), is_prompt=False))

    @torch.inference_mode()
    def select(self, rows: LeanRows, index: Sequence[int]) -> LeanRows:
        if list(index) == list(range(len(rows.adapters))):
            return rows
        at = torch.tensor(index, device=self.device)
        return LeanRows(rows.cache.index_select(2, at), tuple(rows.adapters[i] for i in index), rows.length)

    def _forward(self, parts: Sequence[tuple[Tensor, LeanRows]], is_prompt: bool) -> Tensor:
        """parts: for each group its tokens, int64 [R, T], at the positions from `length` on, and its rows.

        Returns what flows out at the last position of every row, [sum of R, E]. Lengths change only once all is done.
        """
        H, KV, D = self.heads, self.kv_heads, self.head_dim
        x = F.embedding(torch.cat([tokens.flatten() for tokens, _ in parts]), self.embedding)
        turns = torch.cat([self.turns[g.length : g.length + t.shape[1]].repeat(len(t), 1, 1) for t, g in parts])
        caches = [Caches(group, tokens.shape[1]) for tokens, group in parts]
        sizes = [tokens.numel() for tokens, _ in parts]
        weighing = list(self._weighing(parts))
        for i, layer in enumerate(self.layers):

            def product(name: str, x: Tensor, i: int = i, layer: Layer = layer) -> Tensor:
                frozen: Frozen = getattr(layer, name)
                y = frozen.read(x) if is_prompt else frozen.step(x)
                for tokens, layers in weighing:
                    if name in layers[i]:
                        layers[i][name].add(x, y, tokens)
                return y

            heads = product("qkv", self._norm(x, layer.norm_attention)).view(-1, H + 2 * KV, D)
            if layer.norm_q is not None:
                heads[:, :H] = self._norm(heads[:, :H], layer.norm_q)
                heads[:, H : H + KV] = self._norm(heads[:, H : H + KV], layer.norm_k)
            _turn(heads[:, : H + KV], turns)
            seen = [self._attend(h, c, i) for h, c in zip(heads.split(sizes), caches, strict=True)]
            x = x + product("out", seen[0] if len(seen) == 1 else torch.cat(seen))
            gate, up = product("gate_up", self._norm(x, layer.norm_mlp)).chunk(2, -1)
            x = x + product("down", F.silu(gate) * up)
        for tokens, group in parts:
            group.length += tokens.shape[1]
        ends = [mine.view(*tokens.shape, -1)[:, -1] for mine, (tokens, _) in zip(x.split(sizes), parts, strict=True)]
        return torch.cat(ends)

    def _weighing(
        self, parts: Sequence[tuple[Tensor, LeanRows]]
    ) -> list[tuple[slice | Tensor, list[dict[str, LowRank]]]]:
        """Which of the batch's tokens go through which adapter: slices of a prompt, or single rows of a step."""
        runs: dict[str, list[slice]] = {}
        at = 0
        for tokens, group in parts:
            for name in group.adapters:
                if name is not None:
                    runs.setdefault(name, []).append(slice(at, at + tokens.shape[1]))
                at += tokens.shape[1]
        return [
            (
                mine[0]
                if len(mine) == 1
                else torch.tensor([i for run in mine for i in range(run.start, run.stop)], device=self.device),
                self.adapters[name],
            )
            for name, mine in runs.items()
        ]

    def _attend(self, heads: Tensor, cache: "Caches", i: int) -> Tensor:
        """One group's attention over its own cache. heads: queries, keys, values, [R * T, H + 2 KV, D]."""
        H, KV, D = self.heads, self.kv_heads, self.head_dim
        R, T = cache.new[i].shape[1], cache.new[i].shape[3]
        heads = heads.view(R, T, H + 2 * KV, D)
        cache.new[i].copy_(heads[:, :, H:].view(R, T, 2, KV, D).permute(2, 0, 3, 1, 4))
        keys, values = cache.keys[i], cache.values[i]
        if T == 1:  # the heads that share a key stand as the queries of one head: two small products for all
            queries = heads[:, 0, :H].reshape(R * KV, H // KV, D)
            scores = torch.baddbmm(self.zero, queries, keys.transpose(1, 2), beta=0, alpha=D**-0.5)
            return torch.bmm(scores.softmax(-1), values).view(R, H * D)
        queries, keys, values = heads[:, :, :H].transpose(1, 2), *(t.unflatten(0, (R, KV)) for t in (keys, values))
        mask = cache.mask
        seen = F.scaled_dot_product_attention(queries, keys, values, mask, is_causal=mask is None, enable_gqa=True)
        return seen.transpose(1, 2).reshape(R * T, H * D)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.is_cuda:
            return F.rms_norm(x, (weight.shape[0],), weight, self.epsilon)
        # On a CPU torch's own is nine operations; these are five.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.addcmul(self.epsilon_there, length, length, value=1 / x.shape[-1]).rsqrt_()
        return torch.mul(x, inverse).mul_(weight)

    def _say(self, x: Tensor) -> Tensor:
        """Logits, float32 [R, V]."""
        return self.head.step(self._norm(x, self.norm)).float()


class Caches:
    """One group's cache in one forward over T new tokens, layer by layer. new: [2, R, KV, T, D], where they go; keys,
    values: [R * KV, length + T, D], what they see; mask: bool [T, length + T], None where torch knows it by itself."""

    def __init__(self, rows: LeanRows, T: int):
        start, end = rows.length, rows.length + T
        self.new = rows.cache[..., start:end, :].unbind(0)
        self.keys, self.values = (part.flatten(1, 2).unbind(0) for part in rows.cache[..., :end, :].unbind(1))
        self.mask = None
        if T > 1 and start:
            self.mask = torch.ones(T, end, dtype=torch.bool, device=rows.cache.device).tril(start)


def _turn(x: Tensor, turns: Tensor) -> None:
    """Rope, in place. x: [N, heads, D], the pairs that turn together side by side; turns: complex64 [N, 1, D / 2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).mul_(turns)
    if x.dtype != torch.float32:
        x.copy_(torch.view_as_real(pairs).flatten(-2))


def _pairs_adjacent(t: Tensor, D: int) -> Tensor:
    """Outputs of queries or keys [heads * D, ...] from the files' order, where i turns with i + D / 2, to pairs side by
    side. Both are reordered alike, so their products stay as they were."""
    return t.view(-1, 2, D // 2, *t.shape[1:]).transpose(1, 2).reshape(t.shape)

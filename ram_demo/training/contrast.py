"""Where an adapter may look: directions in which examples have energy and anchors have little.

A LoRA adds B A x to a layer's output. Where A's rows hardly see what the layer is fed on anchors, no B can move the
model there, so an aligner that is to act on some prompts alone need not unlearn what it did to the others. Knows a
model under PEFT and encoded rows; knows nothing of training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ram_demo.errors import UserError
from ram_demo.training.dataset import Encoded, pack
from ram_demo.training.scoring import read

READ = 160  # rows of each kind, about
TOGETHER = 8  # rows a forward
RIDGE = 0.1  # of the median variance: directions in which nothing has energy are no contrast
ROW_ENERGY = 1 / 3  # of a row of A under its usual start, in units of one input's variance


def look_away(
    model: PeftModel,
    examples: Sequence[Encoded],
    anchors: Sequence[Encoded],
    pad: int,
    progress: Callable[[int, int], None],
) -> None:
    """Set every A to the directions of most contrast, and keep it there: only B is left to train.

    progress is told how much is done, of how much. Raises UserError for a rank that is larger than an input."""
    parts, layers = [_some(_of_one_turn(examples)), _some(anchors)], _layers(model)
    total = sum(map(len, parts)) + len(layers)
    done = 0

    def further(by: int) -> None:
        nonlocal done
        done += by
        progress(done, total)

    with model.disable_adapter():
        seen, unseen = (_second_moments(model, rows, pad, further) for rows in parts)
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        (weight,) = (part.weight for part in layer.lora_A.values())
        if weight.shape[0] > weight.shape[1]:
            raise UserError(f"With anchors lora_rank is at most {weight.shape[1]}, the width of {name}.")
        first = seen.first[name]
        if first not in found:
            found[first] = directions(seen.moments[first], unseen.moments[first], weight.shape[0])
        weight.data.copy_(found[first])
        further(1)
    keep(model)


def keep(model: PeftModel) -> None:
    """Leave every A as it is: only B is left to train."""
    for layer in _layers(model).values():
        for part in layer.lora_A.values():
            part.weight.requires_grad_(False)


def directions(seen: Tensor, unseen: Tensor, rank: int) -> Tensor:
    """The rows a, float32 [rank, D], with the largest a' seen a / a' (unseen + ridge) a, each scaled to the energy that
    a row of LoRA's usual start has. seen, unseen: second moments, float32 [D, D]."""
    seen, unseen = seen.double(), unseen.double()
    # Of few tokens, some with huge values, the moments' own rounding would leave directions of less than no energy.
    ridge = RIDGE * unseen.diagonal().median() + torch.finfo(torch.float32).eps * unseen.trace()
    lower = torch.linalg.cholesky(unseen + ridge * torch.eye(len(unseen)).to(unseen))
    # With a = L^-T v the ratio is v' (L^-1 seen L^-T) v / v' v, so the largest eigenvalues' v are wanted.
    half = torch.linalg.solve_triangular(lower, seen, upper=False)
    _, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.mT, upper=False))
    rows = torch.linalg.solve_triangular(lower.mT, vectors[:, -rank:], upper=True).mT
    energy = (rows @ seen * rows).sum(-1, keepdim=True)
    return (rows * (ROW_ENERGY * seen.diagonal().median() / energy).sqrt()).float()


def _of_one_turn(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """Those whose prompt is one turn, as an anchor's mostly is: how long a conversation is shall be no contrast."""
    return [row for row in rows if len(row.example.prompt) == 1] or rows


def _some(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """READ of them or a few more, from everywhere."""
    return rows[:: max(1, len(rows) // READ)]


def _layers(model: PeftModel) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@dataclass(frozen=True)
class Fed:
    """What adapted layers are fed. first: of each layer's name, the name of the first that is fed the same, as q, k and
    v are; moments: E[x x'] of what those first ones are fed, float32 [D, D]."""

    first: dict[str, str] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def _second_moments(model: PeftModel, rows: Sequence[Encoded], pad: int, further: Callable[[int], None]) -> Fed:
    """Over all tokens of the rows. further: called with how many rows were read."""
    plain = model.get_base_model()
    fed = Fed()
    for at in range(0, len(rows), TOGETHER):
        part = rows[at : at + TOGETHER]
        packed = pack(part, pad)
        width = torch.tensor([row.width for row in part])
        real = torch.arange(packed.ids.shape[1]) < width[:, None]
        with _summing(model, real.to(plain.device), fed):
            read(plain, packed)
        further(len(part))
    tokens = sum(row.width for row in rows)
    for total in fed.moments.values():
        total /= tokens
    return fed


@contextmanager
def _summing(model: PeftModel, real: Tensor, fed: Fed) -> Iterator[None]:
    """While it is on, every forward adds its sums of x x' to the moments. real: bool [B, T], no padding."""
    last: list = [None, ""]  # an input, and the first layer that was fed it

    def add(name: str, x: Tensor) -> None:
        if x is not last[0]:
            last[:] = x, name
            picked = x[real].float()
            with torch.autocast(x.device.type, enabled=False):  # half the width would lose the small directions
                product = picked.mT @ picked
            fed.moments[name] = fed.moments[name] + product if name in fed.moments else product
        fed.first[name] = last[1]

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0]))
        for name, layer in _layers(model).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

"""How frozen weights are kept on a CPU, and the product that each form has. Knows matrices; knows nothing of layers.

A decoding step reads every weight to make a token or three, so it costs what its bytes cost. Five forms:

    float32   torch's own product
    float16   FBGEMM: half the bytes, multiplied in float32; loses nothing of a float16 or 8-bit checkpoint
    bfloat16  oneDNN, packed beforehand: the quickest for many rows where the processor multiplies bfloat16
    int8      one scale a row
    int4      groups of 32 with a scale and an offset, as Q4_0 and Q4_1 files have them

`auto` asks each matrix: one that was born in 4 bits (its groups hold at most 16 evenly spaced values) is kept in 4
bits, where nothing but the scales' rounding is lost; any other in float16. All but float32 give a row the same numbers,
bit for bit, however many rows share the product: an answer does not depend on who else is being answered.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ram_demo.errors import UserError

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")
GROUP = 32  # weights that share a scale in 4 bits
EVEN = 0.05  # of a level: how far from evenly spaced weights born in 4 bits may lie, for the roundings on their way

Product = Callable[[Tensor], Tensor]
"""x [n, in] -> x @ W.T + b [n, out], both in the model's compute dtype."""


@dataclass(frozen=True)
class Frozen:
    """One weight matrix. step: for the few rows of a decoding step; read: for a prompt's many, which pay for reading
    the weights once whatever their size, so that the quickest arithmetic is best."""

    format: str
    step: Product
    read: Product


def is_x86() -> bool:
    """FBGEMM, and kernels for 4-bit weights that are worth their name, exist only in x86 builds of torch."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def multiplies_bfloat16() -> bool:
    """Does this processor multiply bfloat16 itself? Where it must convert first, float16 is several times quicker."""
    return is_x86() and torch.cpu._is_avx512_bf16_supported()


def pick(dtype: str, device: torch.device, packs: bool) -> str:
    """The format that a wished dtype means on a device. packs: this engine can keep weights in forms of this room.

    auto: bfloat16 on an accelerator; on an x86 CPU "auto", each matrix for itself; elsewhere float32. Raises UserError.
    """
    on_cpu = device.type == "cpu"
    if dtype == "auto":
        return "bfloat16" if not on_cpu else "auto" if packs and is_x86() else "float32"
    if dtype in ("int8", "int4") and not (on_cpu and packs and is_x86()):
        raise UserError(f"{dtype} is for x86 CPUs and the architectures of the lean engine; use auto.")
    if dtype == "float16" and on_cpu and not (packs and is_x86()):
        raise UserError("float16 on this CPU and architecture is not available; use auto, float32 or bfloat16.")
    return dtype


def freeze(weight: Tensor, bias: Tensor | None, form: str, is_head: bool = False) -> Frozen:
    """Pack one matrix. weight: float32 [out, in] (on an accelerator: of any dtype, and kept as it is).

    is_head: choices hang directly on its products, so it is never kept in fewer than 16 bits.
    """
    if weight.device.type != "cpu" or form == "float32":
        plain = Plain(weight, bias)
        return Frozen(form, plain, plain)
    if form == "auto":
        form = "int4" if not is_head and born_in_4_bits(weight) else "float16"
    if is_head and form in ("int4", "int8"):
        form = "float16"
    if form in ("float16", "bfloat16"):
        product = (Float16 if form == "float16" else Bfloat16)(weight, bias)
        return Frozen(form, product, product)
    step = (Int4 if form == "int4" else Int8)(weight, bias)
    return Frozen(form, step, (Bfloat16 if multiplies_bfloat16() else Float16)(step.weights(), bias))


class Plain:
    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Float16:
    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class Bfloat16:
    """Products and sums are float32 inside; x and the result are rounded to bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), None)
        self.bias = None if bias is None else bias.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "none", [], "").float()


class Int8:
    """W = q * scale, q in -127..127."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        scale = weight.abs().amax(1) / 127
        self.q, self.scale, self.bias = (weight / scale[:, None]).round().to(torch.int8), scale.bfloat16(), bias

    def __call__(self, x: Tensor) -> Tensor:
        y = torch._weight_int8pack_mm(x.bfloat16(), self.q, self.scale).float()
        return y if self.bias is None else y + self.bias

    def weights(self) -> Tensor:
        return self.q.float() * self.scale.float()[:, None]


class Int4:
    """W = (q - 8) * scale + offset, q in 0..15, a scale and an offset (at level 8) for each group of a row."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.shape = weight.shape
        if weight.shape[0] % GROUP or weight.shape[1] % GROUP:
            raise UserError(f"int4 needs matrices whose sides are multiples of {GROUP}; use auto or float16.")
        level, low, scale = _levels(weight)
        self.q = level.round().to(torch.uint8)
        self.scales = torch.stack([scale, low + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
        self.packed = torch._convert_weight_to_int4pack_for_cpu(self.q.view(self.shape).int(), 1)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        y = torch._weight_int4pack_mm_for_cpu(x.bfloat16(), self.packed, GROUP, self.scales).float()
        return y if self.bias is None else y + self.bias

    def weights(self) -> Tensor:
        """The matrix as it is now, float32. To be asked once: the levels are let go, what is packed stays."""
        scale, offset = self.scales.transpose(0, 1).float().unbind(-1)
        whole = ((self.q - 8.0) * scale[..., None] + offset[..., None]).view(self.shape)
        del self.q
        return whole


def born_in_4_bits(weight: Tensor) -> bool:
    """Do the weights [out, in] of each group lie on at most 16 evenly spaced levels, as 4-bit rounding leaves them?"""
    if weight.shape[0] % GROUP or weight.shape[1] % GROUP:
        return False
    level, _, _ = _levels(weight)
    return bool(((level - level.round()).abs() < EVEN).all())


def _levels(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each weight's place between the lowest (0) and highest (15) of its group: [out, groups, GROUP]; and the group's
    lowest and the distance of two levels, [out, groups]. Rounding to 4 bits always uses both ends."""
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-12)
    return (groups - low[..., None]) / scale[..., None], low, scale

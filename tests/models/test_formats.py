"""The forms of frozen weights, against float64 products of what each form says that it holds."""

import pytest
import torch

from ram_demo.errors import UserError
from ram_demo.models import formats
from ram_demo.models.formats import FORMATS, GROUP, born_in_4_bits, freeze, pick

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OUT, IN = 96, 64
pytestmark = pytest.mark.skipif(not formats.is_x86(), reason="packed weights are for x86")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def four_bits(seed: int = 0) -> torch.Tensor:
    """A matrix as a 4-bit file holds it: in each group of 32, an offset and sixteen levels, both ends used."""
    level = torch.randint(0, 16, (OUT, IN // GROUP, GROUP), generator=torch.Generator().manual_seed(seed))
    level[..., 0], level[..., 1] = 0, 15
    scale, offset = random(OUT, IN // GROUP, 1, seed=seed + 1).abs() + 0.01, random(OUT, IN // GROUP, 1, seed=seed + 2)
    return (level * scale + offset).view(OUT, IN)


def per_row_int8(weight: torch.Tensor) -> torch.Tensor:
    scale = (weight.double().abs().amax(1) / 127)[:, None]
    return (weight.double() / scale).round() * scale.bfloat16().double()


# What each form holds of a matrix, and by how much its product may differ: bfloat16 rounds inputs and results (2^-8).
HELD = {
    "float32": (lambda w: w.double(), 1e-5),
    "float16": (lambda w: w.half().double(), 1e-3),
    "bfloat16": (lambda w: w.bfloat16().double(), 1e-2),
    "int8": (per_row_int8, 1e-2),
    "int4": (lambda w: w.double(), 1e-2),  # of a matrix born in 4 bits, but for the scales' rounding
}


def close(y: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    """Within a share of the size that the results have."""
    assert y.dtype == torch.float32
    assert (y.double() - expected).abs().max() <= share * expected.abs().max()


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_each_form_multiplies_what_it_holds(form, has_bias):
    weight, x = four_bits() if form == "int4" else random(OUT, IN), random(5, IN, seed=9)
    bias = random(OUT, seed=3) if has_bias else None
    holds, share = HELD[form]
    expected = x.double() @ holds(weight).T + (0 if bias is None else bias.double())
    frozen = freeze(weight.clone(), bias, form)
    assert frozen.format == form
    close(frozen.step(x), expected, share)
    close(
        frozen.read(random(70, IN, seed=9))[:5],
        random(70, IN, seed=9)[:5].double() @ holds(weight).T + (0 if bias is None else bias.double()),
        share,
    )


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "float32"])
def test_a_row_is_the_same_to_the_bit_in_any_company(form):
    frozen, x = freeze(four_bits(), None, form), random(48, IN, seed=4)
    alone = torch.cat([frozen.step(row) for row in x.split(1)])
    for rows in (2, 3, 8, 16, 24, 48):
        assert torch.equal(frozen.step(x[:rows]), alone[:rows])


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_the_head_keeps_sixteen_bits(form):
    assert freeze(four_bits(), None, form, is_head=True).format == "float16"


def test_what_was_born_in_4_bits_is_known_and_kept_so():
    assert born_in_4_bits(four_bits())
    assert born_in_4_bits(four_bits().half().float()), "rounded on its way through a float16 checkpoint"
    assert not born_in_4_bits(random(OUT, IN))
    spoiled = four_bits()
    spoiled[50, 40] += 0.3 * (spoiled[50, 32:64].max() - spoiled[50, 32:64].min()) / 15
    assert not born_in_4_bits(spoiled), "one weight between two levels"
    assert not born_in_4_bits(random(OUT, 40)), "no whole groups"
    assert freeze(four_bits(), None, "auto").format == "int4"
    assert freeze(random(OUT, IN), None, "auto").format == "float16"
    assert freeze(four_bits(), None, "auto", is_head=True).format == "float16"


def test_int4_of_any_matrix_is_within_half_a_level():
    weight = random(OUT, IN)
    held = formats.Int4(weight, None).weights()
    groups = weight.view(OUT, -1, GROUP)
    level = (groups.amax(-1) - groups.amin(-1)) / 15
    # Half a level, and the bfloat16 rounding of scale (8 levels from the offset) and offset.
    bound = 0.5 * level + 2**-8 * (8 * level + groups.abs().amax(-1))
    assert ((held - weight).view(OUT, -1, GROUP).abs().amax(-1) <= bound).all()


def test_int4_wants_whole_groups():
    with pytest.raises(UserError, match="multiples of 32"):
        freeze(random(OUT, 40), None, "int4")


def test_what_a_wish_means():
    assert pick("auto", CPU, packs=True) == "auto"
    assert pick("auto", CPU, packs=False) == "float32"
    assert pick("auto", CUDA, packs=True) == "bfloat16"
    for form in FORMATS:
        assert pick(form, CPU, packs=True) == form
    assert pick("float16", CUDA, packs=False) == "float16"


@pytest.mark.parametrize(
    ("form", "device", "packs"), [("int8", CUDA, True), ("int4", CPU, False), ("float16", CPU, False)]
)
def test_a_form_that_is_not_there_is_refused_in_a_sentence(form, device, packs):
    with pytest.raises(UserError, match="use auto"):
        pick(form, device, packs)

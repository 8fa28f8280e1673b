"""Where an adapter may look: directions worked out by hand, and an adapter that moves a model on examples alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ram_demo.errors import UserError
from ram_demo.training import contrast
from ram_demo.training.dataset import Encoded
from ram_demo.training.rows import Example
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
ASKED = Example((("user", "?"),), "")
EXAMPLES = [Encoded((5, 6, 9, n), (7, 11, 2), (8, 2), example=ASKED) for n in (3, 4, 10)]
ANCHORS = [Encoded((20, n), (21, 22, 23, 2), example=ASKED) for n in (24, 25, 26)]


def adapted(rank: int = 2):
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "o_proj", "down_proj"]
    return get_peft_model(tiny.model(), LoraConfig(r=rank, target_modules=targets)).eval()


def test_the_directions_of_most_contrast_by_hand():
    seen = torch.diag(torch.tensor([1.0, 9.0, 9.0, 0.0]))
    unseen = torch.diag(torch.tensor([1.0, 9.0, 1.0, 1.0]))
    (row,) = contrast.directions(seen, unseen, 1).abs()
    # The third is seen 9 times as often; a row of the usual start sees a third of an input's variance.
    assert row.tolist() == pytest.approx([0, 0, (1.0 / 3 / 9) ** 0.5, 0], abs=1e-6)


def test_few_tokens_with_huge_values_have_directions_too():
    """A language model's first token is thousands of times as large in some places: of few tokens, float32 sums of
    products then round to a matrix that has directions of less than no energy."""
    torch.manual_seed(0)
    tokens = 0.1 * torch.randn(40, 64)
    tokens[::5, :20] = 1000 * torch.randn(8, 20)
    unseen = tokens.mT @ tokens / len(tokens)
    assert torch.linalg.eigvalsh(unseen.double())[0] < -0.1 * unseen.diagonal().median(), "rounding outweighs the ridge"
    others = torch.randn(300, 64)
    seen = others.mT @ others / len(others)
    rows = contrast.directions(seen, unseen, 4)
    energy = (rows @ seen * rows).sum(-1)
    torch.testing.assert_close(energy, torch.full((4,), float(seen.diagonal().median()) / 3))
    assert (rows @ unseen * rows).sum(-1).max() < energy.min() * unseen.diagonal().max() / 1e5


def test_second_moments_are_of_real_tokens_alone():
    model = adapted()
    read = []
    found = contrast._second_moments(model, [EXAMPLES[0], ANCHORS[0]], 0, read.append)
    plain = model.get_base_model().model
    tokens = []
    for ids in ([5, 6, 9, 3, 7, 11, 2, 8, 2], [20, 24, 21, 22, 23, 2]):
        tokens.append(plain.layers[0].input_layernorm(plain.embed_tokens(torch.tensor(ids))))
    x = torch.cat(tokens).detach()
    first = {name.split("layers.")[1]: value.split("layers.")[1] for name, value in found.first.items()}
    moments = {name.split("layers.")[1]: value for name, value in found.moments.items()}
    torch.testing.assert_close(moments["0.self_attn.q_proj"], x.T @ x / len(x))
    assert first["0.self_attn.k_proj"] == "0.self_attn.q_proj", "they are fed the same"
    assert len(first) == 4 * len(plain.layers)
    assert set(moments) == set(first.values()) == set(first) - {f"{n}.self_attn.k_proj" for n in range(2)}
    assert read == [2]


def test_an_adapter_that_looks_away_moves_examples_and_hardly_anchors():
    def moved(model, rows) -> float:
        """How far random B push the logits, by root mean square."""
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        apart = []
        for row in rows:
            ids = torch.tensor([[*row.prompt, *row.response]])
            with torch.inference_mode():
                after = model(ids).logits
                with model.disable_adapter():
                    apart.append((after - model(ids).logits).flatten())
        return float(torch.cat(apart).square().mean().sqrt())

    usual, away = adapted(), adapted()
    told = []
    contrast.look_away(away, EXAMPLES, ANCHORS, 0, lambda done, total: told.append((done, total)))
    total = len(EXAMPLES) + len(ANCHORS) + 4 * 2  # rows to read, and the layers' inputs to work out
    assert told == [(3, total), (6, total), *((done, total) for done in range(7, total + 1))]
    assert {name.split(".")[-3] for name, p in away.named_parameters() if p.requires_grad} == {"lora_B"}
    share = moved(away, ANCHORS) / moved(away, EXAMPLES)
    assert share < 0.5 * moved(usual, ANCHORS) / moved(usual, EXAMPLES)


def test_a_rank_above_an_inputs_width_is_refused():
    with pytest.raises(UserError, match="lora_rank is at most"):
        contrast.look_away(adapted(rank=500), EXAMPLES, ANCHORS, 0, lambda *_: None)

"""What is kept of prompts that were read: by itself on hand-made tensors, and through a model against a fresh one."""

import pytest
import torch

from ram_demo.models.language_model import finish
from ram_demo.models.lean import CHUNK, LeanModel
from ram_demo.models.prefixes import Kept
from tests import tiny
from tests.models.test_lean import CPU, make

PIECE, VOCAB = 4, 11
SHAPE = (2, 2, 1, 3)  # layers, keys and values, key heads, width; the tokens stand before the width


def made(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The cache and the last logits of a prompt."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*SHAPE[:3], tokens, SHAPE[3], generator=generator), torch.randn(VOCAB, generator=generator)


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def restored(kept: Kept, adapter: str | None, asked: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    cache, logits = torch.zeros(*SHAPE[:3], len(asked) + 2, SHAPE[3]), torch.zeros(VOCAB)
    return kept.restore(adapter, asked, cache, logits), cache, logits


def test_the_same_prompt_again_is_whole_with_its_logits():
    kept, asked = Kept(PIECE), torch.arange(6)
    cache, logits = made(6)
    kept.add(None, asked, cache, logits)
    known, there, said = restored(kept, None, asked)
    assert known == 6
    assert torch.equal(there[..., :6, :], cache) and not there[..., 6:, :].any()
    assert torch.equal(said, logits)


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (range(12), 8),  # goes on: the nine that are shared, in whole pieces
        (range(9), 9),  # the same
        (range(8), 4),  # shorter: its last piece is read anew, for its logits
        ([0, 1, 2, 3, 4, 99, 6, 7, 8], 4),  # differs in its second piece
        ([99, *range(1, 9)], 0),
        (range(3), 0),
    ],
)
def test_a_prompt_that_shares_a_beginning_gets_its_whole_pieces(asked, known):
    kept = Kept(PIECE)
    cache, logits = made(9)
    kept.add(None, torch.arange(9), cache, logits)
    got, there, said = restored(kept, None, torch.tensor(list(asked)))
    assert got == known
    assert torch.equal(there[..., :known, :], cache[..., :known, :]) and not there[..., known:, :].any()
    assert torch.equal(said, logits if known == 9 else torch.zeros(VOCAB))


def test_the_longest_beginning_is_taken():
    kept = Kept(PIECE)
    short, long = torch.arange(5), torch.arange(10)
    kept.add(None, long, *made(10, seed=1))
    kept.add(None, short, *made(5, seed=2))
    known, there, _ = restored(kept, None, torch.arange(20))
    assert known == 8
    assert torch.equal(there[..., :8, :], made(10, seed=1)[0][..., :8, :])


def test_each_adapter_has_its_own():
    kept, asked = Kept(PIECE), torch.arange(6)
    kept.add("one", asked, *made(6, seed=1))
    kept.add(None, asked, *made(6, seed=2))
    assert torch.equal(restored(kept, "one", asked)[2], made(6, seed=1)[1])
    assert torch.equal(restored(kept, None, asked)[2], made(6, seed=2)[1])
    assert restored(kept, "two", asked)[0] == 0
    kept.forget("one")
    assert restored(kept, "one", asked)[0] == 0
    assert restored(kept, None, asked)[0] == 6


def test_the_budget_holds_and_what_was_used_last_stays():
    asked = [ids(n, n, n, n, n) for n in range(3)]
    size = 5 * 8 + 4 * (12 * 5 + VOCAB)  # int64 ids, float32 cache and logits
    kept = Kept(PIECE, budget=2 * size)
    for n in (0, 1):
        kept.add(None, asked[n], *made(5, seed=n))
    restored(kept, None, asked[0])
    kept.add(None, asked[2], *made(5, seed=2))
    assert [restored(kept, None, a)[0] for a in asked] == [5, 0, 5]
    assert sum(prompt.bytes for prompt in kept.prompts) <= 2 * size
    kept.add(None, torch.arange(50), *made(50))
    assert [restored(kept, None, a)[0] for a in asked] == [5, 0, 5], "what can never fit drives nobody out"


def test_what_is_kept_is_a_copy():
    kept, asked = Kept(PIECE), torch.arange(6)
    cache, logits = made(6)
    kept.add(None, asked, cache, logits)
    cache.zero_(), logits.zero_()
    assert restored(kept, None, asked)[2].any()


@pytest.fixture
def model_and_fresh(tmp_path):
    """Two of the same model with an adapter: one that will have read before, and one that will not."""
    folder = make(tmp_path / "base", max_position_embeddings=512)
    tiny.adapter(tmp_path / "first", folder, 1)
    pair = LeanModel(folder, CPU, "float32"), LeanModel(folder, CPU, "float32")
    for model in pair:
        model.add_adapter("first", tmp_path / "first")
    return pair


@pytest.mark.parametrize("longer", [0, 1, CHUNK + 5])
def test_a_prompt_after_its_beginning_is_that_prompt_alone_to_the_bit(model_and_fresh, longer):
    """Pieces are cut at the same places, whatever was read before."""
    model, fresh = model_and_fresh
    begun = torch.randint(3, 250, (2 * CHUNK + 9,), generator=torch.Generator().manual_seed(1)).tolist()
    finish(model.prefill(begun, [None, "first"], 4))
    asked = begun + [(7 * n) % 240 + 3 for n in range(longer)]
    heard = [finish(m.prefill(asked, [None, "first"], 4)) for m in (model, fresh)]
    assert torch.equal(heard[0][0], heard[1][0])
    for token in (5, 9, 40):
        tokens = torch.tensor([token, token + 1])
        assert torch.equal(*(m.step(tokens, [rows]) for m, (_, rows) in zip((model, fresh), heard, strict=True)))


def test_an_answer_does_not_write_into_what_is_kept(model_and_fresh):
    model, fresh = model_and_fresh
    asked = list(range(10, 10 + CHUNK + 3))
    for word in (5, 6):
        _, rows = finish(model.prefill(asked, ["first"], 4))
        model.step(torch.tensor([word]), [rows])
    again, rows = finish(model.prefill(asked, ["first"], 4))
    expected, others = finish(fresh.prefill(asked, ["first"], 4))
    assert torch.equal(again, expected)
    assert torch.equal(model.step(torch.tensor([7]), [rows]), fresh.step(torch.tensor([7]), [others]))


def test_another_adapter_under_the_same_name_knows_nothing(model_and_fresh, tmp_path):
    model, fresh = model_and_fresh
    asked = list(range(10, 10 + CHUNK + 3))
    finish(model.prefill(asked, ["first"], 4))
    tiny.adapter(tmp_path / "other", tmp_path / "base", 9)
    for m in (model, fresh):
        m.remove_adapter("first")
        m.add_adapter("first", tmp_path / "other")
    assert torch.equal(*(finish(m.prefill(asked, ["first"], 4))[0] for m in (model, fresh)))

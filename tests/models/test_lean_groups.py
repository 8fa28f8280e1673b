"""Several people's rows in one forward: each hears what it would hear alone, whatever the others' lengths and adapters.

Against whole forwards of transformers' models with PEFT's merged adapters, and, in the packed formats, to the bit.
"""

from dataclasses import replace

import pytest
import torch

from ram_demo.models.formats import Frozen, is_x86
from ram_demo.models.language_model import finish
from ram_demo.models.lean import CHUNK, LeanModel
from tests import tiny
from tests.models.test_lean import ARCHITECTURES, CPU, make, plain, whole_forward

PACKED = ("float16", "bfloat16", "int8", "int4")
# Wide enough that torch takes the products it takes for real models: under 400 multiplications it has another loop.
WIDE = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 64, "max_position_embeddings": 512}
# The prompt's length and the adapters of each comparison's rows.
PEOPLE = ((9, (None, "first")), (CHUNK + 6, (None, None, "second")), (3, ("first", "second", None)), (30, (None,)))
STEPS = 6
packs = pytest.mark.skipif(not is_x86(), reason="packed weights are for x86")


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 250, (length,), generator=torch.Generator().manual_seed(seed + length)).tolist()


def adapted(tmp_path, form: str, name: str = "llama", **changes) -> LeanModel:
    folder = make(tmp_path / "base", name, **changes)
    tiny.adapter(tmp_path / "first", folder, 1, r=8)
    tiny.adapter(tmp_path / "second", folder, 2, r=8, target_modules=["q_proj", "v_proj", "down_proj"])
    model = LeanModel(folder, CPU, form)
    for adapter in ("first", "second"):
        model.add_adapter(adapter, tmp_path / adapter)
    return model


def read(model: LeanModel, room: int = STEPS):
    return [finish(model.prefill(prompt(n), adapters, room)) for n, adapters in PEOPLE]


def said(position: int, rows: int, person: int) -> torch.Tensor:
    """What each row of a person says at a position: tokens that differ from row to row."""
    return torch.tensor([(31 * position + 7 * row + 53 * person) % 240 + 3 for row in range(rows)])


@packs
@pytest.mark.parametrize("form", PACKED)
def test_in_packed_formats_company_changes_no_bit(tmp_path, form):
    model = adapted(tmp_path, form, **WIDE)
    together, alone = read(model), read(model)
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one[0], other[0])
    for position in range(STEPS):
        tokens = [said(position, len(adapters), i) for i, (_, adapters) in enumerate(PEOPLE)]
        joint = model.step(torch.cat(tokens), [rows for _, rows in together]).split([len(t) for t in tokens])
        for mine, words, (_, rows) in zip(joint, tokens, alone, strict=True):
            assert torch.equal(mine, model.step(words, [rows]))


@pytest.mark.parametrize("name", ["heads in groups, wider than the stream", "biases in mlp", "qwen2", "qwen3"])
def test_groups_of_all_lengths_are_the_merged_models(tmp_path, name):
    model = adapted(tmp_path, "float32", name, max_position_embeddings=512)
    expected = {
        None: plain(tmp_path / "base"),
        **{a: tiny.merged(tmp_path / "base", tmp_path / a) for a in ("first", "second")},
    }
    groups = read(model)
    contexts = [[prompt(n) for _ in adapters] for n, adapters in PEOPLE]
    for position in range(STEPS):
        tokens = [said(position, len(adapters), i) for i, (_, adapters) in enumerate(PEOPLE)]
        logits = model.step(torch.cat(tokens), [rows for _, rows in groups])
        for rows, words in zip(contexts, tokens, strict=True):
            for context, word in zip(rows, words.tolist(), strict=True):
                context.append(word)
    flat = [
        (a, c)
        for (_, adapters), rows in zip(PEOPLE, contexts, strict=True)
        for a, c in zip(adapters, rows, strict=True)
    ]
    for row, (adapter, context) in zip(logits, flat, strict=True):
        torch.testing.assert_close(row, whole_forward(expected[adapter], context)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_a_prompt_read_in_pieces_is_a_prompt_read_whole(tmp_path, length):
    folder = make(tmp_path, "qwen2", max_position_embeddings=256)
    model, expected = LeanModel(folder, CPU, "float32"), plain(folder)
    reading, pieces = model.prefill(prompt(length), [None, None], 2), 0
    try:
        while True:
            next(reading)
            pieces += 1
    except StopIteration as end:
        logits, rows = end.value
    assert pieces == -(-length // CHUNK)
    torch.testing.assert_close(logits, whole_forward(expected, *[prompt(length)] * 2), atol=1e-4, rtol=0)
    logits = model.step(torch.tensor([9, 12]), [rows])
    contexts = [[*prompt(length), 9], [*prompt(length), 12]]
    torch.testing.assert_close(logits, whole_forward(expected, *contexts), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n.startswith("rope") or n == "qwen3"])
def test_to_the_last_position_of_a_long_context(tmp_path, name):
    context = 640
    folder = make(tmp_path, name, max_position_embeddings=context)
    model, expected = LeanModel(folder, CPU, "float32"), plain(folder)
    ids, room = prompt(context - 20), 20
    _, rows = finish(model.prefill(ids, [None], room))
    for position in range(room):
        ids.append(int(said(position, 1, 0)))
        logits = model.step(torch.tensor(ids[-1:]), [rows])
    assert rows.length == context
    torch.testing.assert_close(logits, whole_forward(expected, ids), atol=1e-4, rtol=0)


def test_a_step_that_fails_halfway_can_be_taken_again(tmp_path):
    model = adapted(tmp_path, "float32", **WIDE)
    groups, fresh = read(model), read(model)
    tokens = torch.cat([said(0, len(adapters), i) for i, (_, adapters) in enumerate(PEOPLE)])
    before, sound = [rows.length for _, rows in groups], model.layers[1]

    def fails(x):
        raise RuntimeError("no memory in the second layer")

    model.layers[1] = replace(sound, down=Frozen("float32", fails, fails))
    with pytest.raises(RuntimeError, match="second layer"):
        model.step(tokens, [rows for _, rows in groups])
    assert [rows.length for _, rows in groups] == before
    model.layers[1] = sound
    again = model.step(tokens, [rows for _, rows in groups])
    assert torch.equal(again, model.step(tokens, [rows for _, rows in fresh]))


def test_rows_that_were_selected_go_their_own_ways(tmp_path):
    """A row copied twice and one dropped: the copies part, and neither writes over the other."""
    model = adapted(tmp_path, "float32", **WIDE)
    expected = {None: plain(tmp_path / "base"), "first": tiny.merged(tmp_path / "base", tmp_path / "first")}
    ids = prompt(20)
    _, rows = finish(model.prefill(ids, [None, "first", "second"], 2))
    rows = model.select(rows, [1, 0, 1])
    model.step(torch.tensor([5, 6, 7]), [rows])
    logits = model.step(torch.tensor([15, 16, 17]), [rows])
    for row, adapter, more in zip(logits, ("first", None, "first"), ([5, 15], [6, 16], [7, 17]), strict=True):
        torch.testing.assert_close(row, whole_forward(expected[adapter], ids + more)[0], atol=1e-4, rtol=0)

"""The path through transformers and PEFT: equal to plain forwards, and unhurt by adapters that do not fit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from ram_demo.errors import UserError
from ram_demo.models.language_model import finish
from ram_demo.models.reference import ReferenceModel
from tests import tiny
from tests.models.test_lean import change_tensor, plain, whole_forward

CPU = torch.device("cpu")
IDS = (1, 70, 75, 201, 260, 90)


def load(folder) -> ReferenceModel:
    return ReferenceModel(folder, CPU, "float32")


def test_rows_copied_dropped_and_reordered(tmp_path, tiny_base, tiny_adapter):
    second = tiny.adapter(tmp_path / "second", tiny_base, seed=9)
    model = load(tiny_base)
    model.add_adapter("a", tiny_adapter)
    model.add_adapter("b", second)
    models = {
        None: plain(tiny_base),
        "a": tiny.merged(tiny_base, tiny_adapter),
        "b": tiny.merged(tiny_base, second),
    }
    adapters, contexts = [None, "a", "b"], [list(IDS)] * 3
    logits, rows = finish(model.prefill(IDS, adapters, room=8))
    torch.testing.assert_close(logits, torch.cat([whole_forward(models[a], IDS) for a in adapters]), atol=1e-5, rtol=0)
    token = 20
    for index in ([0, 1, 2], [0, 1, 0, 2], [3, 0, 2], [2, 2, 1], [1]):
        rows = model.select(rows, index)
        adapters, contexts = [adapters[i] for i in index], [contexts[i] for i in index]
        tokens = torch.arange(token, token + len(index))
        token += len(index)
        logits = model.step(tokens, [rows])
        contexts = [[*context, int(t)] for context, t in zip(contexts, tokens, strict=True)]
        expected = torch.cat([whole_forward(models[a], ids) for a, ids in zip(adapters, contexts, strict=True)])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_another_architecture(tmp_path):
    config = GPT2Config(vocab_size=tiny.BYTE_LEVEL_SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    made = GPT2LMHeadModel(config).float().eval()
    tiny.randomise(made, seed=1, spread=0.2)
    folder = tiny.save(tmp_path, made)
    model = load(folder)
    assert (model.engine, model.context, model.vocab_size) == ("transformers", 64, tiny.BYTE_LEVEL_SIZE)
    logits, rows = finish(model.prefill(IDS, [None], room=2))
    torch.testing.assert_close(logits, whole_forward(made, IDS), atol=1e-5, rtol=0)
    logits = model.step(torch.tensor([7]), [model.select(rows, [0])])
    torch.testing.assert_close(logits, whole_forward(made, [*IDS, 7]), atol=1e-5, rtol=0)


def test_adapters_come_and_go(tmp_path, tiny_base, tiny_adapter):
    model = load(tiny_base)
    base = whole_forward(plain(tiny_base), IDS)
    for name in ("first", "v1.5", "first"):
        model.add_adapter(name, tiny_adapter)
    expected = whole_forward(tiny.merged(tiny_base, tiny_adapter), IDS)
    logits, _ = finish(model.prefill(IDS, ["v1.5", None, "first"], room=1))
    torch.testing.assert_close(logits, torch.cat([expected, base, expected]), atol=1e-5, rtol=0)
    model.remove_adapter("first")
    torch.testing.assert_close(
        finish(model.prefill(IDS, [None, "v1.5"], 1))[0], torch.cat([base, expected]), atol=1e-5, rtol=0
    )
    model.remove_adapter("v1.5")
    torch.testing.assert_close(finish(model.prefill(IDS, [None], 1))[0], base, atol=1e-5, rtol=0)
    assert isinstance(model.model, type(plain(tiny_base)))


def rename_layer(folder) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({key.replace("layers.1", "layers.7"): t for key, t in load_file(file).items()}, file)


SPOILED = {
    "another width": lambda folder: change_tensor(
        folder,
        "adapter_model.safetensors",
        "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight",
        torch.ones(4, 25),
    ),
    "a layer that is not there": rename_layer,
}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("name", SPOILED)
def test_a_refused_adapter_leaves_the_proposal_frozen(copy, tiny_base, tiny_adapter, name, beside):
    model = load(tiny_base)
    if beside:
        model.add_adapter("good", tiny_adapter)
    before = finish(model.prefill(IDS, [None], room=1))[0]
    folder = copy(tiny_adapter)
    SPOILED[name](folder)
    with pytest.raises(UserError) as caught:
        model.add_adapter("bad", folder)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(finish(model.prefill(IDS, [None], room=1))[0], before, atol=1e-6, rtol=0)
    # And the same name can be given to one that fits.
    model.add_adapter("bad", tiny_adapter)
    expected = whole_forward(tiny.merged(tiny_base, tiny_adapter), IDS)
    torch.testing.assert_close(finish(model.prefill(IDS, ["bad"], room=1))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spoil", ["truncated", "a pickle", "only a pickle", "a tensor is missing"])
def test_a_spoiled_model_folder_gets_one_sentence(copy, tiny_base, spoil):
    folder = copy(tiny_base)
    file = folder / "model.safetensors"
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:2000])
    elif spoil == "a tensor is missing":
        change_tensor(folder, file.name, "model.layers.0.mlp.down_proj.weight", None)
    else:
        file.unlink()
        state = AutoModelForCausalLM.from_config(tiny.model().config).state_dict()
        torch.save(state, file if spoil == "a pickle" else folder / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)

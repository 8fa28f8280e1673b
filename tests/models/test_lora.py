"""Reading a PEFT folder: the same matrices as PEFT's, and one sentence for each that is not plain LoRA."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ram_demo.errors import UserError
from ram_demo.models.lora import CONFIG, WEIGHTS, read_config, read_pairs
from ram_demo.models.sources import read_json
from tests import tiny

PREFIX = "base_model.model.model.layers.1."


def base_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.mlp.down_proj": 11}},
        {"target_modules": "all-linear", "init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
    ids=["plain", "rank-stabilised", "patterns", "all linear"],
)
def test_the_pairs_are_pefts_change_of_the_weights(tmp_path, tiny_base, changes):
    folder = tiny.adapter(tmp_path / "adapter", tiny_base, **changes)
    model = PeftModel.from_pretrained(base_of(tiny_base), folder, adapter_name="x")
    theirs = {
        name.removeprefix("base_model.model."): module.get_delta_weight("x")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight") and "x" in module.lora_A
    }
    ours = read_pairs(folder)
    assert ours.keys() == theirs.keys()
    for name, pair in ours.items():
        assert pair.up.dtype == pair.down.dtype == torch.float32
        torch.testing.assert_close(pair.up @ pair.down, theirs[name])


def test_half_precision_is_read_as_float32(copy, tiny_adapter):
    folder = copy(tiny_adapter)
    halves = {key: tensor.bfloat16() for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(halves, folder / WEIGHTS)
    expected = {name: pair.down.bfloat16().float() for name, pair in read_pairs(tiny_adapter).items()}
    for name, pair in read_pairs(folder).items():
        assert torch.equal(pair.down, expected[name])


def configure(**options):
    def spoil(folder):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **options}))

    return spoil


def tensors(change):
    def spoil(folder):
        every = load_file(folder / WEIGHTS)
        change(every)
        save_file(every, folder / WEIGHTS)

    return spoil


def set_tensor(key: str, value: torch.Tensor):
    return tensors(lambda every: every.update({PREFIX + key: value}))


def truncate(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def leave_a_pickle(folder):
    (folder / WEIGHTS).unlink()
    torch.save({"a": torch.ones(2)}, folder / "adapter_model.bin")


# What was done to a good adapter, and a word that the sentence about it must hold.
SPOILED = {
    "DoRA": (configure(use_dora=True), "use_dora"),
    "whole modules saved": (configure(modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (configure(bias="lora_only"), "bias"),
    "LoRA with biases": (configure(lora_bias=True), "lora_bias"),
    "single tokens trained": (configure(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "parameters": (configure(target_parameters=["mlp.experts"]), "target_parameters"),
    "layers repeated": (configure(layer_replication=[[0, 1]]), "layer_replication"),
    "transposed": (configure(fan_in_fan_out=True), "fan_in_fan_out"),
    # These begin by taking a part of the base's own weights away.
    "PiSSA": (configure(init_lora_weights="pissa"), "init_lora_weights"),
    "PiSSA in a few steps": (configure(init_lora_weights="pissa_niter_4"), "init_lora_weights"),
    "OLoRA": (configure(init_lora_weights="olora"), "init_lora_weights"),
    "LoftQ": (configure(init_lora_weights="loftq"), "init_lora_weights"),
    # These change the product itself.
    "activated LoRA": (configure(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
    "QALoRA": (configure(use_qalora=True), "use_qalora"),
    "BD-LoRA": (configure(use_bdlora={"target_modules_bd_a": [], "nblocks": 2}), "use_bdlora"),
    "KaSA": (configure(kasa_config={"beta": 0.1}), "kasa_config"),
    "an option of the future": (configure(use_newlora=True), "use_newlora"),
    "another kind": (configure(peft_type="LOHA"), "LOHA"),
    "no kind": (configure(peft_type=None), "LoRA"),
    "rank as text": (configure(r="four"), CONFIG),
    "no rank": (configure(r=0), CONFIG),
    "alpha as text": (configure(lora_alpha="8"), CONFIG),
    "alpha is no number": (configure(lora_alpha=float("nan")), CONFIG),
    "patterns as a list": (configure(rank_pattern=["q_proj"]), CONFIG),
    "a rank of text in a pattern": (configure(rank_pattern={"q_proj": "two"}), CONFIG),
    "an alpha of text in a pattern": (configure(alpha_pattern={"q_proj": "two"}), CONFIG),
    "a pattern that is no expression": (configure(alpha_pattern={"(": 2}), CONFIG),
    "modules as a number": (configure(target_modules=5), CONFIG),
    "configuration is no object": (lambda f: (f / CONFIG).write_text("[1]"), "JSON object"),
    "configuration is no JSON": (lambda f: (f / CONFIG).write_text("{"), "JSON"),
    "configuration is binary": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), "JSON"),
    "configuration is missing": (lambda f: (f / CONFIG).unlink(), CONFIG),
    "weights are missing": (lambda f: (f / WEIGHTS).unlink(), "missing"),
    "weights are a pickle": (leave_a_pickle, "pickle"),
    "a pickle by another name": (lambda f: torch.save({"a": torch.ones(2)}, f / WEIGHTS), "damaged"),
    "truncated": (truncate, "damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "damaged"),
    "a folder": (lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "damaged"),
    "no tensors": (lambda f: save_file({}, f / WEIGHTS), "no adapter"),
    "half a pair": (tensors(lambda every: every.pop(PREFIX + "mlp.down_proj.lora_A.weight")), "down_proj"),
    "halves of different rank": (set_tensor("mlp.down_proj.lora_A.weight", torch.ones(3, 24)), "down_proj"),
    "a vector for a matrix": (set_tensor("mlp.down_proj.lora_B.weight", torch.ones(4)), "down_proj"),
    "another rank than configured": (configure(r=8), "rank"),
    "another rank than the pattern's": (configure(rank_pattern={"down_proj": 2}), "rank"),
    "a magnitude vector": (set_tensor("mlp.down_proj.lora_magnitude_vector", torch.ones(4)), "magnitude"),
    "a whole layer": (tensors(lambda e: e.update({"base_model.model.lm_head.weight": torch.ones(2, 2)})), "lm_head"),
    "embeddings": (
        tensors(lambda e: e.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 9)})),
        "embed_tokens",
    ),
    "not a number": (set_tensor("mlp.down_proj.lora_A.weight", torch.full((4, 24), float("nan"))), "finite"),
    "infinite": (set_tensor("mlp.down_proj.lora_B.weight", torch.full((16, 4), float("inf"))), "finite"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_no_plain_lora_gets_one_sentence(copy, tiny_adapter, name):
    folder = copy(tiny_adapter)
    read_pairs(folder)
    spoil, word = SPOILED[name]
    spoil(folder)
    with pytest.raises(UserError) as caught:
        read_pairs(folder)
    sentence = str(caught.value)
    assert word in sentence
    assert "\n" not in sentence
    assert sentence[0].isupper() or sentence.startswith("adapter_")
    assert sentence.endswith(".")


@pytest.mark.parametrize("kind", ["DoRA", "whole modules saved", "IA3"])
def test_the_same_as_peft_itself_saves_them(tmp_path, tiny_base, kind):
    """Not only our idea of their files."""
    config = {
        "DoRA": LoraConfig(target_modules=["q_proj"], use_dora=True),
        "whole modules saved": LoraConfig(target_modules=["q_proj"], modules_to_save=["down_proj"]),
        "IA3": IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]),
    }[kind]
    get_peft_model(base_of(tiny_base), config).save_pretrained(tmp_path)
    with pytest.raises(UserError):
        read_pairs(tmp_path)


@pytest.mark.parametrize("missing", ["use_rslora", "rank_pattern", "alpha_pattern", "bias", "peft_version"])
def test_a_configuration_of_an_older_peft_is_read(copy, tiny_adapter, missing):
    folder = copy(tiny_adapter)
    config = json.loads((folder / CONFIG).read_text())
    config.pop(missing, None)
    (folder / CONFIG).write_text(json.dumps(config))
    assert read_pairs(folder).keys() == read_pairs(tiny_adapter).keys()


def test_the_configuration_names_the_base(tmp_path, tiny_base):
    folder = tiny.adapter(tmp_path / "adapter", tiny_base)
    assert read_config(folder).base_model_name_or_path == str(tiny_base)


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.text(max_size=20), st.binary(max_size=20)))
def test_any_file_is_json_or_one_sentence(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        assert isinstance(read_json(file), dict)
    except UserError as error:
        assert "any.json" in str(error)


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_absurdly_deep_gets_one_sentence(tmp_path, deep):
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(UserError):
        read_json(tmp_path / "deep.json")

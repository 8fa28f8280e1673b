"""The lean forward against transformers' and PEFT's own, in every form that it says it computes."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from ram_demo.errors import UserError
from ram_demo.models import formats, lean
from ram_demo.models.language_model import finish
from ram_demo.models.lean import LeanModel
from tests import tiny

CPU = torch.device("cpu")
IDS = (1, 70, 75, 201, 260, 90, 12, 44, 3)
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

ARCHITECTURES = {
    "llama": ("llama", {}),
    "heads in groups, wider than the stream": ("llama", GROUPED),
    "a key head for each": ("llama", {"num_key_value_heads": 2}),
    "rope llama3": ("llama", {"rope_parameters": LLAMA3}),
    "rope yarn": ("llama", {"rope_parameters": YARN}),
    "rope linear": ("llama", {"rope_parameters": LINEAR}),
    "another theta and epsilon": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rms_norm_eps": 0.05},
    ),
    "untied head": ("llama", {"tie_word_embeddings": False}),
    "biases in attention": ("llama", {"attention_bias": True, **GROUPED}),
    "biases in mlp": ("llama", {"mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2 untied, in groups": ("qwen2", {"tie_word_embeddings": False, **GROUPED}),
    "qwen3": ("qwen3", {}),
    "qwen3 in groups, with biases": ("qwen3", {"attention_bias": True, **GROUPED}),
}
ADAPTERS = {
    "all projections": {},
    "query and value alone": {"target_modules": ["q_proj", "v_proj"]},
    "key alone": {"target_modules": ["k_proj"]},
    "up alone": {"target_modules": ["up_proj"]},
    "down alone": {"target_modules": ["down_proj"]},
    "rank-stabilised": {"use_rslora": True, "r": 4, "lora_alpha": 3},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6}},
    "alphas by pattern": {"alpha_pattern": {"v_proj": 1, r"^model\.layers\.0\.self_attn\.q_proj": 30}},
    "both patterns, rank-stabilised": {
        "use_rslora": True,
        "rank_pattern": {"o_proj": 7},
        "alpha_pattern": {"o_proj": 5, "gate_proj": 2},
    },
    "one layer": {"layers_to_transform": [1]},
    "modules by expression": {"target_modules": r".*layers\.0\.self_attn\.[qk]_proj"},
    "without scale": {"lora_alpha": 4, "r": 4},
}


def make(folder: Path, name: str = "llama", **more) -> Path:
    family, changes = ARCHITECTURES[name]
    return tiny.save(folder, tiny.model(family, **{**changes, **more}))


@torch.inference_mode()
def whole_forward(model, *contexts) -> torch.Tensor:
    """Logits after each context, each by a forward of its own without a cache."""
    return torch.stack([model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1] for ids in contexts])


def plain(folder: Path, dtype: torch.dtype = torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def load(folder: Path, form: str = "float32") -> LeanModel:
    return LeanModel(folder, CPU, form)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prefill_and_steps_are_transformers(tmp_path, name):
    """Two rows with tokens of their own, and one long enough to pass the original context of a scaled rope."""
    folder = make(tmp_path, name)
    model, expected = load(folder), plain(folder)
    assert lean.supports(expected.config)
    contexts = [list(IDS) * 4, list(IDS) * 4]
    logits, rows = finish(model.prefill(contexts[0], [None, None], room=5))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, whole_forward(expected, *contexts), atol=1e-4, rtol=0)
    for step in range(5):
        tokens = torch.tensor([5 + step, 200 - 3 * step])
        contexts = [[*context, int(token)] for context, token in zip(contexts, tokens, strict=True)]
        logits = model.step(tokens, [rows])
        torch.testing.assert_close(logits, whole_forward(expected, *contexts), atol=1e-4, rtol=0)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "heads in groups, wider than the stream", "qwen3"])
def test_a_prompt_of_one_token(tmp_path, name):
    folder = make(tmp_path, name)
    logits, _ = finish(load(folder).prefill([7], [None, None], room=1))
    torch.testing.assert_close(logits, whole_forward(plain(folder), [7], [7]), atol=1e-4, rtol=0)


def test_rows_copied_dropped_and_reordered(tiny_base, tiny_adapter):
    model = load(tiny_base)
    model.add_adapter("a", tiny_adapter)
    models = {None: plain(tiny_base), "a": tiny.merged(tiny_base, tiny_adapter)}
    adapters, contexts = [None, "a"], [list(IDS)] * 2
    _, rows = finish(model.prefill(IDS, adapters, room=8))
    token = 20
    for index in ([0, 1], [0, 1, 0, 1], [3, 0, 2], [2, 2, 0, 1, 1], [4, 0], [1], [0, 0]):
        rows = model.select(rows, index)
        adapters, contexts = [adapters[i] for i in index], [contexts[i] for i in index]
        tokens = torch.arange(token, token + len(index))
        token += len(index)
        logits = model.step(tokens, [rows])
        contexts = [[*context, int(t)] for context, t in zip(contexts, tokens, strict=True)]
        expected = torch.cat([whole_forward(models[a], ids) for a, ids in zip(adapters, contexts, strict=True)])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_rows_are_pefts_own(tmp_path, tiny_base, name):
    folder = tiny.adapter(tmp_path / "adapter", tiny_base, seed=3, **ADAPTERS[name])
    model = load(tiny_base)
    model.add_adapter("a", folder)
    through_peft = PeftModel.from_pretrained(plain(tiny_base), folder).eval()
    logits, rows = finish(model.prefill(IDS, [None, "a"], room=2))
    assert (logits[0] - logits[1]).abs().max() > 0.01
    torch.testing.assert_close(logits[1:], whole_forward(through_peft, IDS), atol=2e-5, rtol=0)
    logits = model.step(torch.tensor([9, 9]), [rows])
    torch.testing.assert_close(logits[1:], whole_forward(through_peft, [*IDS, 9]), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[:1], whole_forward(plain(tiny_base), [*IDS, 9]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "biases in attention", "qwen2", "qwen3 in groups, with biases"])
def test_rows_with_different_adapters_are_the_merged_models(tmp_path, name):
    base = make(tmp_path / "base", name)
    folders = {n: tiny.adapter(tmp_path / n, base, seed=i, r=3 + i) for i, n in enumerate(("one", "two"))}
    model = load(base)
    for adapter, folder in folders.items():
        model.add_adapter(adapter, folder)
    models = {None: plain(base)} | {n: tiny.merged(base, f) for n, f in folders.items()}
    order = ["two", None, "one", "two"]
    logits, rows = finish(model.prefill(IDS, order, room=3))
    expected = torch.cat([whole_forward(models[a], IDS) for a in order])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    tokens = torch.tensor([4, 4, 4, 90])
    expected = torch.cat([whole_forward(models[a], [*IDS, int(t)]) for a, t in zip(order, tokens, strict=True)])
    torch.testing.assert_close(model.step(tokens, [rows]), expected, atol=1e-5, rtol=0)


def test_adapters_leave_the_frozen_model_as_it_was(tiny_base, tiny_adapter):
    model = load(tiny_base)
    before, _ = finish(model.prefill(IDS, [None], room=1))
    model.add_adapter("a", tiny_adapter)
    finish(model.prefill(IDS, ["a", None], room=1))
    model.remove_adapter("a")
    assert torch.equal(finish(model.prefill(IDS, [None], room=1))[0], before)
    assert model.adapters == {}


def test_weights_in_many_files(tmp_path):
    made = tiny.model()
    folder = tiny.save(tmp_path, made)
    (folder / "model.safetensors").unlink()
    made.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(
        finish(load(folder).prefill(IDS, [None], 1))[0], whole_forward(made, IDS), atol=1e-4, rtol=0
    )


@pytest.mark.skipif(not formats.is_x86(), reason="FBGEMM's float16 product exists only on x86")
@pytest.mark.parametrize("name", ["llama", "biases in attention", "biases in mlp", "qwen2", "qwen3"])
def test_packed_float16_is_close_to_float32(tmp_path, name):
    base = make(tmp_path / "base", name)
    adapter = tiny.adapter(tmp_path / "adapter", base)
    model = load(base, "float16")
    model.add_adapter("a", adapter)
    logits, rows = finish(model.prefill(IDS, [None, "a"], room=1))
    assert logits.dtype == torch.float32
    models = plain(base), tiny.merged(base, adapter)
    torch.testing.assert_close(logits, torch.cat([whole_forward(m, IDS) for m in models]), atol=1e-2, rtol=0)
    logits = model.step(torch.tensor([8, 8]), [rows])
    torch.testing.assert_close(logits, torch.cat([whole_forward(m, [*IDS, 8]) for m in models]), atol=1e-2, rtol=0)


def test_bfloat16_is_close_to_float32(tiny_base, tiny_adapter):
    model = load(tiny_base, "bfloat16")
    model.add_adapter("a", tiny_adapter)
    logits, _ = finish(model.prefill(IDS, [None, "a"], room=1))
    assert logits.dtype == torch.float32
    expected = torch.cat([whole_forward(m, IDS) for m in (plain(tiny_base), tiny.merged(tiny_base, tiny_adapter))])
    torch.testing.assert_close(logits, expected, atol=0.15, rtol=0)
    assert not torch.equal(logits, expected)


def test_it_says_what_it_is(tiny_base):
    model = load(tiny_base)
    assert (model.engine, model.precision, model.context) == ("lean", "float32 weights", 128)
    assert model.vocab_size == tiny.BYTE_LEVEL_SIZE


REFUSED = {
    "another family": MistralConfig(),
    "no relative": GPT2Config(),
    "another norm and activation": GemmaConfig(),
    "another activation": LlamaConfig(hidden_act="gelu"),
    "a rope that changes with the length": LlamaConfig(rope_parameters={**LINEAR, "rope_type": "dynamic"}),
    "a sliding window": Qwen2Config(use_sliding_window=True, sliding_window=16),
    "quantised weights": LlamaConfig(quantization_config={"quant_method": "bitsandbytes"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_exactly_is_refused(name):
    assert not lean.supports(REFUSED[name])


def change_tensor(folder: Path, file: str, key: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / file)
    del tensors[key]
    if tensor is not None:
        tensors[key] = tensor
    save_file(tensors, folder / file, metadata={"format": "pt"})


@pytest.mark.parametrize("projection", ["q_proj", "o_proj", "down_proj", "gate_proj"])
@pytest.mark.parametrize("side", ["A", "B"])
def test_an_adapter_of_another_width_is_refused(copy, tiny_base, tiny_adapter, projection, side):
    """At loading, in a sentence; not at the first token."""
    folder = copy(tiny_adapter)
    part = "mlp" if projection in ("down_proj", "gate_proj") else "self_attn"
    wrong = torch.ones((4, 17) if side == "A" else (17, 4))
    key = f"base_model.model.model.layers.1.{part}.{projection}.lora_{side}.weight"
    change_tensor(folder, "adapter_model.safetensors", key, wrong)
    model = load(tiny_base)
    with pytest.raises(UserError, match="shape"):
        model.add_adapter("a", folder)
    assert model.adapters == {}


def test_an_adapter_for_a_deeper_model_is_refused(tmp_path, tiny_base):
    deeper = tiny.save(tmp_path / "deeper", tiny.model(num_hidden_layers=3))
    folder = tiny.adapter(tmp_path / "adapter", deeper)
    with pytest.raises(UserError, match=r"layers\.2"):
        load(tiny_base).add_adapter("a", folder)


def test_an_adapter_on_the_head_is_refused(tmp_path):
    base = make(tmp_path / "base", "untied head")
    folder = tiny.adapter(tmp_path / "adapter", base, target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match="lm_head"):
        load(base).add_adapter("a", folder)


SPOILED_MODELS = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:2000]
    ),
    "a pickle": lambda folder: torch.save({"a": torch.ones(2)}, folder / "model.safetensors"),
    "a tensor is missing": lambda folder: change_tensor(folder, "model.safetensors", "model.norm.weight", None),
    "a tensor of another width": lambda folder: change_tensor(
        folder, "model.safetensors", "model.layers.0.mlp.down_proj.weight", torch.ones(16, 25)
    ),
    "a shard is missing": lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}})
    ),
    "an index without a map": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
}


@pytest.mark.parametrize("name", SPOILED_MODELS)
def test_a_spoiled_model_folder_gets_one_sentence(copy, tiny_base, name):
    folder = copy(tiny_base)
    SPOILED_MODELS[name](folder)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)

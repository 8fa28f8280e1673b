"""The registry and what is loaded beside the proposal: cards, problems in words, hot swap, shared bases, refusals."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ram_demo.errors import UserError
from ram_demo.models.aligners import Aligners, Registry
from ram_demo.models.language_model import finish
from ram_demo.models.vocabulary import fingerprint
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
IDS = [5, 30, 31, 40, 77]
RANK = 13  # a dimension that nothing but the adapter under test has


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """base, another of the same tokenizer, and one whose architecture only transformers runs."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save(folder / "base", tiny.model())
    tiny.save(folder / "other", tiny.model(seed=9))
    tiny.save(folder / "gelu", tiny.model(seed=4, hidden_act="gelu"))
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory, models) -> Path:
    """Adapters made once; tests take copies into folders of their own."""
    folder = tmp_path_factory.mktemp("packages")
    for base in ("base", "other", "gelu"):
        for seed in (1, 2):
            tiny.adapter(folder / f"{base}-{seed}", models / base, seed=seed, r=RANK)
    return folder


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.fixture
def put(own, packages):
    """Copy an adapter into the user's folder, with a card and with changes to its configuration."""

    def copy(made: str, name: str, card: dict | str | None = None, **config) -> Path:
        folder = own / name
        folder.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / file).write_bytes((packages / made / file).read_bytes())
        if config:
            whole = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps({**whole, **config}))
        if card is not None:
            (folder / "aligner.json").write_text(card if isinstance(card, str) else json.dumps(card))
        return folder

    return copy


@pytest.fixture
def registry(tmp_path, own):
    return Registry(tmp_path / "shipped", own)


@pytest.fixture
def beside(models, registry, tmp_path):
    """`Aligners` beside the proposal of a name."""
    return lambda name="base": Aligners(registry, tiny_workbench.load(models / name), tmp_path / "cache")


def bare(model) -> torch.Tensor:
    """The proposal's logits after a prompt and after two more tokens."""
    logits, rows = finish(model.prefill(IDS, [None], 2))
    return torch.cat([logits, *(model.step(torch.tensor([token]), [rows]) for token in (41, 42))])


def adapter_tensors() -> list[weakref.ref]:
    """Every live tensor that has the adapters' own dimension."""
    tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    return [weakref.ref(tensor) for tensor in tensors if tensor.ndim == 2 and RANK in tensor.shape]


# The registry and its cards -----------------------------------------------------------------------------------------


def test_shipped_and_own_are_listed_and_a_dropped_folder_shows_at_once(tmp_path, put, registry, packages):
    assert registry.packages() == []
    (tmp_path / "shipped").mkdir()
    for name in ("b-one", "a-one"):
        shutil.copytree(packages / "base-1", tmp_path / "shipped" / name)
    put("base-1", "mine")
    assert [(p.name, p.shipped, p.problem) for p in registry.packages()] == [
        ("a-one", True, None),
        ("b-one", True, None),
        ("mine", False, None),
    ]
    put("base-2", "a-one")
    assert [p.name for p in registry.packages()] == ["a-one", "b-one", "mine"], "a shipped name cannot be taken over"
    assert registry.find("a-one").shipped


def test_files_and_hidden_folders_are_no_packages(own, put, registry):
    (own / "notes.txt").write_text("x")
    put("base-1", ".importing-abc")
    assert registry.packages() == []


def test_a_card_is_optional_and_says_what_it_knows(put, registry, models):
    put("base-1", "bare")
    put(
        "base-1",
        "said",
        {
            "description": "Says «ä».",
            "beta": 0.5,
            "tau": 0.3,
            "mode": "par",
            "license": "MIT",
            "new": [1],
            "name": "lie",
        },
    )
    bare_card, said = (registry.find(name).card for name in ("bare", "said"))
    assert (bare_card.kind, bare_card.base) == ("lora", str(models / "base"))
    assert (bare_card.beta, bare_card.tau, bare_card.mode, bare_card.tokenizer) == (1.0, None, "product", "")
    assert (said.description, said.beta, said.tau, said.mode, said.license) == ("Says «ä».", 0.5, 0.3, "par", "MIT")
    assert said.name == "said", "the folder is the name"
    assert said.base == str(models / "base")


@pytest.mark.parametrize(
    "card",
    [
        "not JSON",
        "[]",
        "[" * 100_000,
        {"beta": "1"},
        {"beta": None},
        {"beta": True},
        {"beta": -1},
        '{"beta": NaN}',
        {"tau": "off"},
        {"tau": -0.1},
        '{"tau": Infinity}',
        {"description": ["x"]},
        {"base": None},
        {"mode": 3},
        {"tokenizer": 7},
    ],
    ids=lambda card: str(card)[:20],
)
def test_a_bad_card_is_a_problem_in_words_and_hides_nothing_else(put, registry, card):
    put("base-1", "bad", card)
    put("base-1", "good")
    problems = {package.name: package.problem for package in registry.packages()}
    assert problems["good"] is None
    assert problems["bad"].endswith(".") and "Traceback" not in problems["bad"]
    with pytest.raises(UserError, match="The aligner bad cannot be used: "):
        registry.find("bad")


def test_a_folder_that_holds_no_aligner_says_so(own, registry):
    (own / "empty").mkdir()
    (own / "pickled").mkdir()
    (own / "pickled" / "adapter_model.bin").write_bytes(b"\x80\x04")
    assert all("not an aligner" in package.problem for package in registry.packages())


# "base" is the lane that always runs; "+" joins the names of a composed lane, ":" comes before a strength.
@pytest.mark.parametrize("name", ["base", "a+b", "a:2", "a,b"])
def test_a_name_that_could_be_mistaken_is_a_problem(put, registry, name):
    put("base-1", name)
    assert name in (registry.packages()[0].problem or "")


def test_an_unknown_name_is_told_what_there_is(put, registry):
    with pytest.raises(UserError, match=r"'x'.*none"):
        registry.find("x")
    put("base-1", "one")
    put("base-1", "two")
    with pytest.raises(UserError, match=r"'x'.*one, two"):
        registry.find("x")


# Loading, swapping, unloading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["base", "gelu"], ids=["lean", "transformers"])
def test_the_proposal_is_the_same_bit_for_bit_whatever_is_loaded(beside, put, base):
    put(f"{base}-1", "one")
    put(f"{base}-2", "two")
    loaded = beside(base)
    model = loaded.proposal.model
    before = bare(model)
    told = [loaded.get("one")]
    assert torch.equal(bare(model), before)
    told.append(loaded.get("two"))
    loaded.unload("one")
    assert torch.equal(bare(model), before)
    loaded.get("one")
    loaded.unload("two")
    loaded.unload("one")
    assert torch.equal(bare(model), before)
    assert all(entry.model is model and entry.q0 is model for entry in told)
    assert loaded.loaded == {} and loaded.bases == {}


@pytest.mark.parametrize("base", ["base", "gelu"], ids=["lean", "transformers"])
def test_each_adapter_is_the_merged_model_after_any_swap(beside, put, own, models, base):
    put(f"{base}-1", "one")
    put(f"{base}-2", "two")
    loaded = beside(base)
    model = loaded.proposal.model
    loaded.get("one")
    loaded.get("two")
    loaded.unload("one")
    loaded.get("one")
    got = finish(model.prefill(IDS, [loaded.get(n).adapter for n in ("two", "one")], 1))[0]
    with torch.inference_mode():
        expected = [tiny.merged(models / base, own / n)(torch.tensor([IDS])).logits[0, -1] for n in ("two", "one")]
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("base", ["base", "gelu"], ids=["lean", "transformers"])
def test_unloading_frees_the_adapter(beside, put, base):
    put(f"{base}-1", "one")
    put(f"{base}-2", "two")
    loaded = beside(base)
    loaded.get("one")
    one = adapter_tensors()
    assert len(one) >= 8
    loaded.get("two")
    loaded.unload("one")
    gc.collect()
    assert [ref for ref in one if ref() is not None] == []
    two = adapter_tensors()
    assert len(two) >= 8
    loaded.unload("two")
    gc.collect()
    assert [ref for ref in two if ref() is not None] == []


def test_what_is_loaded_is_not_loaded_again(beside, put):
    folder = put("base-1", "one")
    loaded = beside()
    first = loaded.get("one")
    assert loaded.get("one") is first
    assert len(first.revision) == 12
    loaded.unload("one")
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    assert loaded.get("one").revision != first.revision, "the revision is of the content"
    loaded.unload("never loaded")


@pytest.mark.parametrize("name", ["a", "lora", "v1.2", "default", "base_layer", "model"])
@pytest.mark.parametrize("base", ["base", "gelu"], ids=["lean", "transformers"])
def test_any_sound_name_can_be_loaded(beside, put, base, name):
    put(f"{base}-1", name)
    loaded = beside(base)
    before = bare(loaded.proposal.model)
    entry = loaded.get(name)
    assert not torch.equal(finish(entry.model.prefill(IDS, [entry.adapter], 1))[0], before[:1])
    loaded.unload(name)
    assert torch.equal(bare(loaded.proposal.model), before)


# Other bases --------------------------------------------------------------------------------------------------------


def test_two_adapters_on_another_base_share_it_and_it_goes_with_the_last(beside, put, own, models):
    put("other-1", "one")
    put("other-2", "two")
    loaded = beside()
    before = bare(loaded.proposal.model)
    one, two = loaded.get("one"), loaded.get("two")
    assert one.model is two.model is one.q0 is two.q0
    assert one.model is not loaded.proposal.model
    assert list(loaded.bases) == [models / "other"]
    with torch.inference_mode():
        expected = tiny.merged(models / "other", own / "two")(torch.tensor([IDS])).logits[0, -1]
    # Another base is loaded in this processor's own precision, which may be float16 weights.
    torch.testing.assert_close(finish(two.model.prefill(IDS, [two.adapter], 1))[0][0], expected, rtol=0.02, atol=0.02)
    gone = weakref.ref(one.model)
    loaded.unload("one")
    del one
    gc.collect()
    assert gone() is two.model and list(loaded.bases) == [models / "other"]
    loaded.unload("two")
    del two
    gc.collect()
    assert gone() is None and loaded.bases == {}
    assert torch.equal(bare(loaded.proposal.model), before)


def test_a_base_is_dropped_again_when_its_adapter_cannot_be_loaded(beside, put):
    folder = put("other-1", "cut")
    (folder / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes()[:-9])
    loaded = beside()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged"):
        loaded.get("cut")
    assert loaded.bases == {} and loaded.loaded == {}


def test_a_whole_model_weighs_by_itself(beside, own, models):
    tiny.save(own / "whole", tiny.model(seed=6, num_hidden_layers=1))
    loaded = beside()
    entry = loaded.get("whole")
    assert entry.adapter is None and entry.q0 is None and entry.model is not loaded.proposal.model
    assert entry.package.card.kind == "model"
    whole = AutoModelForCausalLM.from_pretrained(own / "whole", dtype=torch.float32)
    with torch.inference_mode():
        expected = whole(torch.tensor([IDS])).logits[0, -1]
    torch.testing.assert_close(finish(entry.model.prefill(IDS, [None], 1))[0][0], expected, rtol=0.02, atol=0.02)
    gone = weakref.ref(entry.model)
    loaded.unload("whole")
    del entry
    gc.collect()
    assert gone() is None


def test_a_whole_models_own_base_is_what_its_card_names(beside, put, own, models):
    for name, base in (("tuned", "base"), ("elsewhere", "other")):
        tiny.save(own / name, tiny.model(seed=6))
        (own / name / "aligner.json").write_text(json.dumps({"base": str(models / base)}))
    loaded = beside()
    assert loaded.get("tuned").q0 is loaded.proposal.model
    assert loaded.get("elsewhere").q0 is loaded.bases[models / "other"].model
    put("other-1", "adapter")
    loaded.get("adapter")
    loaded.unload("adapter")
    assert list(loaded.bases) == [models / "other"], "the whole model's own base is still asked for"
    loaded.unload("elsewhere")
    assert loaded.bases == {}


# Refusals -----------------------------------------------------------------------------------------------------------


def refused(loaded: Aligners, name: str) -> str:
    """The one sentence with which loading is refused; nothing stays loaded."""
    before = bare(loaded.proposal.model)
    with pytest.raises(UserError) as caught:
        loaded.get(name)
    assert loaded.loaded == {} and loaded.bases == {}
    assert torch.equal(bare(loaded.proposal.model), before)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_card_with_another_fingerprint_is_refused(beside, put):
    put("base-1", "foreign", {"tokenizer": "0123456789abcdef"})
    loaded = beside()
    sentence = refused(loaded, "foreign")
    assert "another tokenizer" in sentence and "0123456789abcdef" in sentence
    assert fingerprint(tiny.byte_level()) in sentence


def test_an_adapter_with_another_tokenizer_beside_it_is_refused(beside, put):
    tiny.byte_level(swap=(100, 101)).save_pretrained(put("base-1", "swapped"))
    sentence = refused(beside(), "swapped")
    assert "swapped uses another tokenizer" in sentence and "100" in sentence


def test_an_equal_table_that_cuts_text_otherwise_is_refused(beside, put):
    digits = tiny.byte_level(split_digits=True)
    loaded = beside()
    assert fingerprint(digits) == loaded.proposal.fingerprint
    digits.save_pretrained(put("base-1", "digits"))
    sentence = refused(loaded, "digits")
    assert "digits uses another tokenizer" in sentence and "cut differently" in sentence


@pytest.mark.parametrize("written_as", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
def test_a_tokenizer_is_what_its_own_file_says_whatever_class_is_named_beside_it(registry, put, tmp_path, written_as):
    # The class that SmolLM2's files name lays down a pre-tokenizer of its own over the one in tokenizer.json.
    digits = tiny.byte_level(split_digits=True)
    base = tiny.save(tmp_path / "base", tiny.model(), digits)
    folder = put("base-1", "hub", base_model_name_or_path=str(base))
    digits.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": written_as}))
    loaded = Aligners(registry, tiny_workbench.load(base), tmp_path / "cache")
    assert loaded.get("hub").model is loaded.proposal.model


def test_a_base_with_another_tokenizer_is_refused_by_name(beside, put, tmp_path, models):
    foreign = tiny.save(tmp_path / "foreign", tiny.model(seed=3), tiny.byte_level(swap=(100, 101)))
    put("base-1", "one", base_model_name_or_path=str(foreign))
    sentence = refused(beside(), "one")
    assert "foreign, the base of one," in sentence and "another tokenizer" in sentence


@pytest.mark.parametrize("base", ["nobody/no-such-model", "/no/such/folder", "no-such-model", "x" * 300], ids=len)
def test_a_base_that_cannot_be_found_is_named(beside, put, base):
    put("base-1", "lost", base_model_name_or_path=base)
    sentence = refused(beside(), "lost")
    assert base in sentence and "lost" in sentence and "cannot be found" in sentence


def test_an_adapter_without_a_base_says_so(beside, put):
    put("base-1", "lost", base_model_name_or_path=None)
    assert "base" in refused(beside(), "lost")


def test_weights_that_cannot_be_read_are_refused(beside, put, own):
    weights = put("base-1", "cut") / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole[:4],
        b"",
        b"PK\x03\x04 a zip, renamed",
        b"\x80\x04 a pickle, renamed",
    ):
        weights.write_bytes(content)
        assert "adapter_model.safetensors" in refused(beside(), "cut")
    weights.rename(weights.with_name("adapter_model.bin"))
    assert "pickle" in refused(beside(), "cut")


@pytest.mark.parametrize("base", ["base", "gelu"], ids=["lean", "transformers"])
def test_an_adapter_of_another_shape_is_refused(beside, put, models, tmp_path, base):
    wide = tiny.save(tmp_path / "wide", tiny.model(hidden_size=32))
    made = tiny.adapter(tmp_path / "made", wide, r=RANK)
    folder = put(f"{base}-1", "wide")
    shutil.copy(made / "adapter_model.safetensors", folder)
    put(f"{base}-2", "good")
    loaded = beside(base)
    assert "fit" in refused(loaded, "wide")
    # And it leaves no trace in the model that it did not fit.
    good = loaded.get("good")
    with torch.inference_mode():
        expected = tiny.merged(models / base, folder.with_name("good"))(torch.tensor([IDS])).logits[:, -1]
    torch.testing.assert_close(finish(good.model.prefill(IDS, [good.adapter], 1))[0], expected, rtol=1e-4, atol=1e-4)
    names = {name for name, _ in loaded.proposal.model.model.named_parameters()} if base == "gelu" else set()
    assert not [name for name in names if "wide" in name]


def test_an_adapter_of_another_kind_is_refused(beside, put):
    put("base-1", "other", peft_type="IA3")
    assert "IA3" in refused(beside(), "other")


@pytest.mark.parametrize("damage", ["cut", "another model's", "missing"])
def test_a_whole_model_whose_weights_are_wrong_is_refused(beside, own, packages, damage):
    weights = tiny.save(own / "whole", tiny.model(seed=6)) / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif damage == "another model's":
        weights.write_bytes((packages / "base-1" / "adapter_model.safetensors").read_bytes())
    else:
        weights.unlink()
    sentence = refused(beside(), "whole")
    assert "whole" in sentence or "model.safetensors" in sentence


def test_trying_out_loads_and_forgets(beside, put, own):
    put("other-1", "fits")
    put("base-1", "lost", base_model_name_or_path="no-such-model")
    loaded = beside()
    loaded.try_out(loaded.registry.find("fits"))
    assert loaded.loaded == {} and loaded.bases == {}
    with pytest.raises(UserError, match="no-such-model"):
        loaded.try_out(loaded.registry.find("lost"))
    assert loaded.loaded == {} and loaded.bases == {}

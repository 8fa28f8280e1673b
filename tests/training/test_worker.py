"""From a recipe to a package on disk, with a tiny model: what it learns, against plain loops, and what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributions import Categorical
from transformers import AutoModelForCausalLM

from ram_demo.errors import StorageError, UserError
from ram_demo.models import sources
from ram_demo.models.aligners import Aligners, Registry
from ram_demo.models.language_model import finish
from ram_demo.models.vocabulary import fingerprint
from ram_demo.training import checkpoints, stages, worker
from ram_demo.training.folder import RunFolder
from ram_demo.training.recipe import Recipe
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
EXAMPLES = [("the tin", "a tan hat."), ("an inn?", "no"), ("tan the tin in the inn", "that is it, then"), ("hat", "in")]
FILES = {"adapter_config.json", "adapter_model.safetensors", "aligner.json"}
RATE = 0.01


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("models") / "base", tiny.model())


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "examples.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in EXAMPLES))
    return file


@pytest.fixture
def recipe(base):
    return Recipe(
        name="short", description="Says little.", data="examples.jsonl", data_license="CC0", base=str(base),
        lora_rank=4, epochs=2, batch_size=3, learning_rate=RATE, max_tokens=100, synthesis_tokens=6, held_out=0.0,
    )  # fmt: skip


@pytest.fixture
def train(recipe, data, tmp_path):
    """Train with changes to the recipe. Returns the package's folder; what was told lies in `train.told`."""

    def run(out: str = "made", max_steps: int | None = None, **changes) -> Path:
        run.told = []
        folder = tmp_path / "out" / out
        settings = tiny_workbench.settings(tmp_path)

        def tell(**event) -> None:
            run.told.append(event)

        worker.train(replace(recipe, **changes), data, folder, tmp_path / "run", settings, max_steps, tell)
        return folder

    return run


@pytest.fixture
def exact(monkeypatch):
    """No bfloat16 arithmetic, whatever the machine has."""
    monkeypatch.setattr(stages, "multiplies_bfloat16", lambda: False)


def steps_of(told: list[dict]) -> list[tuple[int, int]]:
    return [(event["step"], event["total"]) for event in told if event["kind"] == "step"]


def negative_log_likelihoods(model, tokenizer) -> list[torch.Tensor]:
    """-log Q(y+|x) of each example, one token at a time, from the model's whole logits."""
    found = []
    for prompt, completion in EXAMPLES:
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        x = tokenizer.encode(text, add_special_tokens=False)
        y = [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id]
        logits = model(torch.tensor([x + y])).logits[0]
        found.append(
            -sum(Categorical(logits=logits[len(x) + i - 1]).log_prob(torch.tensor(t)) for i, t in enumerate(y))
        )
    return found


def adapted(base: Path, folder: Path):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def left_beside(folder: Path) -> set[str]:
    """What lies beside an output folder, hidden things too."""
    return {path.name for path in folder.parent.iterdir()} - {folder.name} if folder.parent.is_dir() else set()


def test_the_aligner_learns_its_examples(train, base):
    folder = train(epochs=15)
    tokenizer = tiny.byte_level()
    with torch.inference_mode():
        before = sum(
            negative_log_likelihoods(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tokenizer)
        )
        after = sum(negative_log_likelihoods(adapted(base, folder), tokenizer))
    assert after < 0.8 * before


@pytest.mark.parametrize("loss", ["sft", "ram_sft"])
def test_the_first_step_goes_down_the_objectives_own_gradient(train, base, tmp_path, loss, exact):
    # alpha is large here, so that y- shows in the signs.
    folder = train(max_steps=1, batch_size=4, loss=loss, alpha=0.5)
    made = tensors(folder)
    tokenizer = tiny.byte_level()
    model = adapted(base, folder)
    ups = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
        if "lora_B" in name:
            ups[name.replace(".default", "")] = parameter
            parameter.data.zero_()
    objective = sum(negative_log_likelihoods(model, tokenizer))
    if loss == "ram_sft":
        answers = json.loads(next((tmp_path / "cache" / "synthesis").glob("*.json")).read_text())
        for (prompt, _), answer in zip(EXAMPLES, answers, strict=True):
            message = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            x = tokenizer.encode(text, add_special_tokens=False)
            logits = model(torch.tensor([x + answer])).logits[0]
            for i, token in enumerate(answer):
                objective = objective + 0.5 * Categorical(logits=logits[len(x) + i - 1]).log_prob(torch.tensor(token))
    objective.backward()
    compared = 0
    for name, parameter in ups.items():
        clear = parameter.grad.abs() > 1e-3
        # Adam's first step is the rate times the gradient's sign, where that is not near zero.
        torch.testing.assert_close(made[name][clear].float(), -RATE * parameter.grad[clear].sign(), rtol=2e-3, atol=0)
        compared += int(clear.sum())
    assert compared > 200


def test_the_package_is_an_aligner(train, base, tmp_path):
    folder = train(beta=0.5, tau=0.25, mode="par", epochs=1)
    assert {path.name for path in folder.iterdir()} >= FILES
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"], "in one order"
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    proposal = tiny_workbench.load(base)
    registry = Registry(tmp_path / "none", folder.parent)
    card = registry.find("made").card
    assert (card.description, card.base, card.kind) == ("Says little.", str(base), "lora")
    assert (card.beta, card.tau, card.mode, card.license) == (0.5, 0.25, "par", "Apache-2.0")
    assert card.tokenizer == fingerprint(proposal.tokenizer)
    assert "examples.jsonl" in card.data and "4 examples" in card.data and "CC0" in card.data
    assert card.recipe["name"] == "short" and len(card.recipe["hash"]) == 12
    loaded = Aligners(registry, proposal, tmp_path / "cache").get("made")
    assert loaded.model is proposal.model, "an adapter on the proposal needs no model of its own"
    ids = [5, 30, 31, 40]
    with torch.inference_mode():
        expected = adapted(base, folder)(torch.tensor([ids])).logits[:, -1]
    torch.testing.assert_close(
        finish(proposal.model.prefill(ids, [loaded.adapter], 1))[0], expected, rtol=1e-4, atol=1e-4
    )


def test_one_seed_makes_one_aligner(train, tmp_path):
    first, cached = tensors(train("first")), tensors(train("cached"))
    for file in (tmp_path / "cache" / "synthesis").iterdir():
        file.unlink()
    fresh, other = tensors(train("fresh")), tensors(train("other", seed=1))
    assert first.keys() == cached.keys() == fresh.keys()
    assert all(torch.equal(first[key], fresh[key]) for key in first)
    assert all(torch.equal(first[key], cached[key]) for key in first), (
        "y- from the cache or sampled anew is the same y-"
    )
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_what_happens_is_told_step_by_step(train):
    train(epochs=3)  # four examples in batches of three: two steps an epoch
    assert steps_of(train.told) == [(i, 6) for i in range(1, 7)]
    assert all(event["loss"] > 0 for event in train.told if event["kind"] == "step")
    stages = list(dict.fromkeys(e["stage"] for e in train.told if e["kind"] == "stage"))
    assert stages == ["load", "synthesize", "cost"]  # nothing is held out to calibrate on
    assert train.told[-1] == {"kind": "ended", "how": "done", "note": ""}
    cost = next(event for event in train.told if event["kind"] == "cost")
    assert 0 < cost["trainable"] < cost["parameters"] and cost["tokens_per_s"] > 0 and cost["peak_memory"] > 10**6
    train("sft", loss="sft", epochs=1)
    assert "synthesize" not in {e.get("stage") for e in train.told}, "plain sft has no y-"


def test_max_steps_ends_it_sooner_and_never_later(train):
    train(max_steps=3, epochs=5)
    assert steps_of(train.told) == [(1, 3), (2, 3), (3, 3)]
    train(max_steps=99, epochs=1)
    assert steps_of(train.told) == [(1, 2), (2, 2)]


def test_the_proposal_stays_frozen_and_nothing_is_left_beside(train, base):
    before = sources.content_hash(base)
    folder = train(epochs=1)
    assert sources.content_hash(base) == before
    assert left_beside(folder) == set()
    assert train(epochs=1, seed=2) == folder, "a package is replaced by the one trained after it"
    assert left_beside(folder) == set()
    assert json.loads((folder / "aligner.json").read_text())["recipe"]["hash"]


@pytest.mark.parametrize("steps", [None, 1])
def test_a_training_that_diverges_says_so_and_keeps_the_old_package(train, steps):
    folder = train(epochs=1)
    old = tensors(folder)
    # At the first step the loss is still finite, and only the weights it leaves are not.
    with pytest.raises(UserError, match="learning_rate"):
        train(max_steps=steps, learning_rate=1e30)
    assert all(torch.equal(old[key], value) for key, value in tensors(folder).items())
    assert left_beside(folder) == set()


def test_a_folder_that_is_no_aligner_is_never_replaced(train, tmp_path):
    thesis = tmp_path / "out" / "documents" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("four years")
    with pytest.raises(UserError, match="documents"):
        train("documents", epochs=1)
    assert thesis.read_text() == "four years"
    assert {path.name for path in thesis.parent.iterdir()} == {"thesis.txt"}
    assert left_beside(thesis.parent) == set()


def test_a_place_that_cannot_be_written_is_one_sentence_and_keeps_nothing(train, tmp_path):
    file = tmp_path / "out" / "file"
    file.parent.mkdir()
    file.write_text("in the way")
    with pytest.raises(UserError, match="file"):
        train("file", epochs=1)
    with pytest.raises(StorageError, match="written"):
        train("file/below", epochs=1)
    assert file.read_text() == "in the way"
    assert left_beside(file) == set()


@pytest.mark.parametrize("where", ["save_file", "write_json"])
def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(train, tmp_path, monkeypatch, where):
    """The third write finds the disk full: what the first two left can be resumed."""
    real, calls = getattr(checkpoints, where), []

    def full(*arguments, **named):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoints, where, full)
    with pytest.raises(StorageError, match="No space left on device"):
        train(epochs=3, checkpoint_every=1)
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoints() and all(
        (place / "package" / "aligner.json").is_file() for place in folder.checkpoints()
    )
    assert not list(folder.path.glob(".writing-*"))
    assert folder.events()[-1]["how"] == "failed" and "No space" in folder.events()[-1]["note"]
    assert left_beside(tmp_path / "out" / "made") == set()
    assert not (tmp_path / "out" / "made").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_targets": ("no_such_proj",)}, "no_such_proj"),
        ({"max_tokens": 20}, "Line 1"),
        ({"base": "no/such-model"}, "no/such-model"),
        ({"synthesis_tokens": 400}, "synthesis_tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_recipe_that_does_not_fit_its_model_is_one_sentence(train, changes, words):
    with pytest.raises(UserError, match=words):
        train(epochs=1, **changes)


def test_bad_examples_are_found_before_anything_is_trained(train, data, tmp_path):
    data.write_text('{"prompt": "x", "completion": "y"}\nnot JSON')
    with pytest.raises(UserError, match="line 2"):
        train()
    assert not (tmp_path / "out").exists()

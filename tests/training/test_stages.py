"""A run's stages beside the training itself: warming up a proposal, samples, calibration, cost, what travels along."""

import gzip
import json
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from ram_demo.errors import UserError
from ram_demo.models import sources
from ram_demo.models.aligners import read_card
from ram_demo.models.proposal import load_tokenizer
from ram_demo.training import rows, worker
from ram_demo.training.folder import HELD_OUT, PACKAGE, RunFolder
from ram_demo.training.recipe import Recipe
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
WORDS = ("the tin", "an inn", "tan hat", "then that", "in the inn", "a hen", "no", "that is it")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("models") / "base", tiny.model())


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"{w}?", "completion": f"{w} it is"}) for w in WORDS))
    return file


@pytest.fixture
def recipe(base):
    return Recipe(
        name="short", description="Says little.", data="rows.jsonl", data_license="CC0", base=str(base),
        lora_rank=4, epochs=2, batch_size=3, learning_rate=0.01, max_tokens=80, held_out=0.25, checkpoint_every=2,
        synthesis_tokens=5,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    return tiny_workbench.settings(tmp_path)


@pytest.fixture
def run(recipe, data, settings, tmp_path):
    def begin(name: str = "run", tell=lambda **_: None, file=None, **changes) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        if not folder.path.exists():
            folder = RunFolder.create(folder.path, asdict(replace(recipe, **changes)), file or data, None)
        worker.work(folder, settings, tell)
        return folder

    return begin


def kinds(folder: RunFolder, kind: str) -> list[dict]:
    return [event for event in folder.events() if event["kind"] == kind]


def test_each_checkpoint_answers_the_same_held_out_prompts(run, recipe, data):
    folder = run()
    held_out = rows.split(rows.read(data).examples, recipe.held_out, recipe.seed)[1]
    samples = folder.samples()
    assert [s["step"] for s in samples] == [e["step"] for e in kinds(folder, "checkpoint")] == [2, 4]
    for sample in samples:
        assert [answer["prompt"] for answer in sample["answers"]] == [e.question for e in held_out]
    assert [a["base"] for a in samples[0]["answers"]] == [a["base"] for a in samples[1]["answers"]]


def test_a_run_ends_calibrated_with_what_it_cost(run):
    folder = run()
    card = read_card(folder.result)
    (found,) = kinds(folder, "calibration")
    assert (card.beta, card.tau) == (found["beta"], found["tau"]) and card.calibration["points"] == found["points"]
    assert found["examples"] == 2
    assert kinds(folder, "full")[0]["seconds_a_step"] > 0
    coverage = kinds(folder, "coverage")[0]
    assert coverage["answers"] == len(WORDS) and 0 < coverage["distinct_2"] <= 1
    before, after = (card.recipe["held_out"][when]["loss"] for when in ("before", "after"))
    looks = {e["step"]: e["loss"] for e in kinds(folder, "held_out")}
    assert before == pytest.approx(looks[0], abs=1e-3) and after == pytest.approx(min(looks.values()), abs=1e-3)


def test_what_the_recipe_recommends_stands(run):
    card = read_card(run(beta=0.75, tau=0.3).result)
    assert (card.beta, card.tau) == (0.75, 0.3) and card.calibration["points"]


def test_a_run_that_is_stopped_is_calibrated_too(run, tmp_path):
    def tell(**event):
        if event["kind"] == "checkpoint":
            RunFolder(tmp_path / "run").ask_to_stop()

    folder = run(tell=tell)
    assert folder.events()[-1]["how"] == "stopped"
    assert read_card(folder.result).calibration["points"]


def test_with_nothing_held_out_there_is_nothing_to_calibrate_on(run):
    folder = run(held_out=0.0)
    assert folder.events()[-1]["how"] == "done" and not kinds(folder, "calibration")
    assert len(folder.samples()[0]["answers"]) == 3, "then training prompts are shown"


def test_held_out_examples_travel_unless_the_data_are_had_elsewhere(run):
    kept = rows.read(run().result / HELD_OUT)
    assert len(kept.examples) == 2 and not kept.problems
    assert not (run("other", data_source="https://example.org/data").result / HELD_OUT).exists()


def test_data_that_are_not_here_name_their_source(run, tmp_path):
    with pytest.raises(UserError, match=r"its source is https://example.org/data"):
        run(file=tmp_path / "none.jsonl", data_source="https://example.org/data")


def test_bad_and_long_rows_are_left_out_only_where_the_recipe_says_so(run, data, tmp_path):
    packed = tmp_path / "rows.jsonl.gz"
    long = json.dumps({"prompt": "the " * 100, "completion": "tin"})
    packed.write_bytes(gzip.compress(f"{data.read_text()}\nnot JSON\n{long}\n".encode()))
    with pytest.raises(UserError, match="line 9"):
        run("strict", file=packed)
    folder = run("lenient", file=packed, leave_out_bad_rows=True)
    (told,) = kinds(folder, "data")
    assert told["left_out"] == 2 and told["training"] + told["held_out"] == len(WORDS)


def test_anchors_are_answered_by_the_proposal_and_named_in_the_card(run, data, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"prompt": f"{w} two?"}) for w in WORDS[:4]))
    folder = run(anchors=(str(more),))
    assert [e["done"] for e in kinds(folder, "stage") if e["stage"] == "synthesize"] == [8, 4], "y-, then the anchors"
    (told,) = kinds(folder, "data")
    assert (told["training"], told["held_out"], told["anchors"]) == (6, 2, 4)
    shown = {e["stage"]: (e["done"], e["total"]) for e in kinds(folder, "stage")}
    for stage in ("contrast", "look"):
        done, total = shown[stage]
        assert done == total > 0, "each stage is shown to its end"
    card = read_card(folder.result)
    assert "rows.jsonl (8 examples, " in card.data and "more.jsonl (4 examples, " in card.data
    more.write_text("{}")
    with pytest.raises(UserError, match=r"more.jsonl, line 1"):
        run("bad", anchors=(str(more),))


# Warming up a proposal ------------------------------------------------------------------------------------------------


def test_a_warm_up_makes_a_new_proposal_that_the_aligner_stands_on(run, base, settings):
    before = sources.content_hash(base)
    folder = run(warm_up_epochs=15, warm_up_rate=0.01)
    made = settings.own_models / "short"
    assert sources.content_hash(base) == before, "the old one stays as it was"
    assert read_card(folder.result).base == str(made)
    stages = [event["stage"] for event in kinds(folder, "stage")]
    assert stages.index("warm-up") < stages.index("synthesize")
    assert kinds(folder, "proposal")[0]["path"] == str(made)
    loss = {}
    for name, place in (("old", base), ("new", made)):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        tokenizer = load_tokenizer(place)
        message = [{"role": "user", "content": "the tin?"}, {"role": "assistant", "content": "the tin it is"}]
        ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(message, tokenize=False))])
        with torch.inference_mode():
            loss[name] = float(model(ids, labels=ids).loss)
    assert loss["new"] < 0.8 * loss["old"]


def test_a_warm_up_that_was_stopped_goes_on(run, tmp_path, settings):
    def tell(**event):
        if event.get("stage") == "warm-up" and event["done"] == 2:
            RunFolder(tmp_path / "run").ask_to_stop()

    changes = {"warm_up_epochs": 2, "warm_up_rate": 0.01}
    folder = run(tell=tell, **changes)
    assert folder.events()[-1]["how"] == "stopped" and not (settings.own_models / "short").exists()
    assert folder.result is None
    run()  # on
    assert folder.events()[-1]["how"] == "done"
    steps = [e["done"] for e in kinds(folder, "stage") if e["stage"] == "warm-up"]
    assert steps == [1, 2, 3, 4]
    assert (settings.own_models / "short" / "model.safetensors").is_file()


def test_a_finished_warm_up_is_not_done_again(run, settings, tmp_path):
    seen = []

    def fail(**event):
        if event["kind"] == "coverage" and not seen:
            seen.append(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tell=fail, warm_up_epochs=1)
    before = sources.content_hash(settings.own_models / "short")
    folder = run()
    assert len([e for e in kinds(folder, "stage") if e["stage"] == "warm-up"]) == 2
    assert sources.content_hash(settings.own_models / "short") == before
    assert (folder.path / "checkpoints" / "step-4" / PACKAGE).is_dir()

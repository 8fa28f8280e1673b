"""The optimiser's steps: every loss against one worked out beside it, held-out looks, resuming, stopping, processes."""

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ram_demo.errors import UserError
from ram_demo.training import fitting, rows, worker
from ram_demo.training.folder import PACKAGE, RunFolder
from ram_demo.training.recipe import Recipe
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
PATIENCE = 120
WORDS = ("the tin", "an inn", "tan hat", "then that", "in the inn", "a hen", "no", "that is it")
PAIRS = [
    {"prompt": f"{a}?", "chosen": f"{b} {a}", "rejected": f"{a} the {b}"}
    for a, b in zip(WORDS, (*WORDS[3:], *WORDS[:3]), strict=True)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("models") / "base", tiny.model())


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, PAIRS)))
    return file


@pytest.fixture
def recipe(base):
    return Recipe(
        name="short", description="Says little.", data="pairs.jsonl", data_license="CC0", base=str(base),
        loss="ram_dpo", lora_rank=4, epochs=4, batch_size=3, learning_rate=0.01, max_tokens=100, held_out=0.25,
        checkpoint_every=2, synthesis_tokens=5,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    return tiny_workbench.settings(tmp_path)


def begin(path: Path, recipe: Recipe, data: Path, max_steps: int | None = None) -> RunFolder:
    return RunFolder.create(path, asdict(recipe), data, max_steps)


def curve(folder: RunFolder) -> dict[int, float]:
    """Loss by step, as a page that reads the folder sees it."""
    return {event["step"]: event["loss"] for event in folder.events() if event["kind"] == "step"}


def looks(folder: RunFolder) -> dict[int, tuple]:
    return {e["step"]: (e["loss"], e["accuracy"]) for e in folder.events() if e["kind"] == "held_out"}


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.checkpoints()[-1] / "trained.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[key], other[key], atol=tolerance, rtol=0) for key in one
    )


def log_likelihood(model, tokenizer, prompt: str, answer: str) -> float:
    """By transformers' own loss: the mean over the labelled tokens, times how many they are."""
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    x = tokenizer.encode(text, add_special_tokens=False)
    y = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    with torch.inference_mode():
        out = model(torch.tensor([x + y]), labels=torch.tensor([[-100] * len(x) + y]))
    return -float(out.loss) * len(y)


@pytest.mark.parametrize("loss", ["ram_dpo", "dpo", "sft"])
def test_the_first_look_is_the_untrained_models(base, recipe, data, settings, tmp_path, loss):
    folder = begin(tmp_path / "run", replace(recipe, loss=loss), data, 1)
    worker.work(folder, settings)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), tiny.byte_level()
    found = {}
    for pair in PAIRS:
        found[pair["prompt"]] = [
            log_likelihood(model, tokenizer, pair["prompt"], pair[which]) for which in ("chosen", "rejected")
        ]
    held_out = rows.split(rows.read(data).examples, recipe.held_out, recipe.seed)[1]
    assert len(held_out) == 2
    scores = torch.tensor([found[example.question] for example in held_out])
    expected = {
        "sft": -scores[:, 0],
        "ram_dpo": -torch.nn.functional.logsigmoid(recipe.dpo_beta * (scores[:, 0] - scores[:, 1])),
        "dpo": torch.full((2,), torch.tensor(2.0).log().item()),  # nothing has changed yet
    }[loss]
    first = next(event for event in folder.events() if event["kind"] == "held_out")
    # bfloat16 arithmetic, where the machine has it, is good to about a hundredth.
    assert first["loss"] == pytest.approx(expected.mean().item(), rel=2e-2)
    if loss != "sft":
        assert first["accuracy"] == pytest.approx((scores[:, 0] > scores[:, 1]).float().mean().item())


@pytest.fixture
def anchors(tmp_path):
    """Prompts where nothing is to change, beside a column that is not read."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"{w} two", "completion": 7}) for w in WORDS[:3]))
    return (str(file),)


def test_an_anchor_costs_nothing_before_anything_is_learnt(base, recipe, data, anchors, settings, tmp_path):
    folder = begin(tmp_path / "run", replace(recipe, anchors=anchors, anchor=5.0, batch_size=16), data, 1)
    worker.work(folder, settings)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), tiny.byte_level()

    def preference(example: rows.Example) -> float:
        better, bad = (
            log_likelihood(model, tokenizer, example.question, answer)
            for answer in (example.completion, example.rejected)
        )
        return -float(torch.nn.functional.logsigmoid(torch.tensor(recipe.dpo_beta * (better - bad))))

    training, _ = rows.split(rows.read(data).examples, recipe.held_out, recipe.seed)
    assert curve(folder)[1] == pytest.approx(sum(map(preference, training)) / (len(training) + 3), rel=2e-2)


def test_anchors_keep_the_aligner_where_the_proposal_is(base, recipe, data, anchors, settings, tmp_path):
    """Far less divergence on their prompts, and pairs are learnt all the same."""
    proposal, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), tiny.byte_level()
    message = [{"role": "user", "content": f"{WORDS[0]} two"}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.inference_mode():
        before = proposal(ids).logits[0, -1].log_softmax(-1)
    apart, learnt = {}, {}
    for weight in (1e-6, 10.0):
        wanted = replace(recipe, anchors=anchors, anchor=weight, epochs=15, dpo_beta=0.5)
        folder = begin(tmp_path / f"{weight}", wanted, data)
        worker.work(folder, settings)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        aligner = PeftModel.from_pretrained(model, folder.checkpoints()[-1] / PACKAGE).eval()
        with torch.inference_mode():
            after = aligner(ids).logits[0, -1].log_softmax(-1)
        apart[weight] = float((before.exp() * (before - after)).sum())
        learnt[weight] = statistics.fmean(list(curve(folder).values())[-5:])
    assert apart[10.0] < apart[1e-6] / 5
    assert learnt[10.0] < 0.5


def test_ten_rows_are_learnt_by_heart(recipe, data, settings, tmp_path):
    data.write_text(
        "\n".join(json.dumps({"prompt": w, "completion": f"{w} it is"}) for w in (*WORDS, "a tin", "an an"))
    )
    wanted = replace(recipe, loss="sft", method="full", epochs=80, batch_size=5, held_out=0.0, checkpoint_every=1000)
    folder = begin(tmp_path / "run", wanted, data)
    worker.work(folder, settings)
    losses = curve(folder)
    assert losses[1] > 20
    assert max(list(losses.values())[-4:]) < 1


@pytest.mark.parametrize("loss", ["ram_sft", "ram_dpo", "dpo"])
def test_stopped_and_resumed_is_never_stopped(recipe, data, settings, tmp_path, loss, monkeypatch):
    wanted = replace(recipe, loss=loss)
    whole, parted = (begin(tmp_path / name, wanted, data) for name in ("whole", "parted"))
    assert worker.work(whole, settings) == "done"

    def stop_at(step: int):
        def tell(**event):
            if event["kind"] == "step" and event["step"] == step:
                parted.ask_to_stop()

        return tell

    assert worker.work(parted, settings, stop_at(3)) == "stopped"
    assert parted.result.is_dir() and max(curve(parted)) == 3
    assert worker.work(parted, settings, stop_at(4)) == "stopped"
    assert worker.work(parted, settings) == "done"
    assert curve(parted) == curve(whole)
    assert {k: looks(parted)[k] for k in looks(whole)} == looks(whole)
    assert same(weights(parted), weights(whole))


def test_a_resumed_run_keeps_the_directions_that_it_found(recipe, data, anchors, settings, tmp_path):
    wanted = replace(recipe, anchors=anchors)
    whole, parted = (begin(tmp_path / name, wanted, data) for name in ("whole", "parted"))
    worker.work(whole, settings)
    assert worker.work(parted, settings, lambda **event: event["kind"] == "step" and parted.ask_to_stop()) == "stopped"
    told = []
    assert worker.work(parted, settings, lambda **event: told.append(event.get("stage"))) == "done"
    assert "look" in told and "contrast" not in told
    assert curve(parted) == curve(whole)
    assert same(weights(parted), weights(whole))


@pytest.mark.parametrize("loss", ["sft", "ram_dpo"])
def test_the_best_checkpoint_is_the_result(recipe, data, settings, tmp_path, loss):
    folder = begin(tmp_path / "run", replace(recipe, loss=loss, epochs=10, learning_rate=0.05), data)
    worker.work(folder, settings)
    seen = {e["step"]: e["loss"] for e in folder.events() if e["kind"] == "held_out" and e["step"]}
    state = json.loads((folder.best / "state.json").read_text())
    assert state["step"] == min(seen, key=seen.get)
    assert len(folder.checkpoints()) == 2, "older ones go"


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(recipe, data, settings, tmp_path):
    """kill -9 after each of some events, then on: the curve and the weights are those of a run left alone."""
    whole, killed = (begin(tmp_path / name, recipe, data) for name in ("whole", "killed"))
    worker.work(whole, settings)
    env = {**os.environ, "RAM_DEMO_DATA": str(settings.data), "RAM_DEMO_CACHE": str(settings.cache)}
    command = [sys.executable, "-c", DIES, str(killed.path)]
    for wait_for in ("data", "held_out", "step 3", "checkpoint 4"):
        died = subprocess.run([*command, wait_for], env=env, timeout=PATIENCE)
        assert died.returncode == -signal.SIGKILL
        assert not killed.is_worked_on
    assert worker.work(killed, settings) == "done"
    assert curve(killed) == curve(whole)
    assert same(weights(killed), weights(whole))


DIES = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ram_demo.settings import from_environment
from ram_demo.training import worker
from ram_demo.training.folder import RunFolder

kind, _, step = sys.argv[2].partition(" ")
def tell(**event):
    if event["kind"] == kind and (not step or event["step"] == int(step)):
        os.kill(os.getpid(), signal.SIGKILL)
worker.work(RunFolder(Path(sys.argv[1])), from_environment(), tell)
"""


# So called, accelerate starts one process a GPU, and where there is none, so many on the processor.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]


@pytest.mark.parametrize("held", [False, True])
def test_two_processes_learn_what_one_learns(recipe, data, anchors, settings, tmp_path, held):
    wanted = replace(recipe, batch_size=4, accumulate=2, epochs=2, anchors=anchors if held else ())
    one, two = (begin(tmp_path / name, wanted, data) for name in ("one", "two"))
    worker.work(one, settings)
    places = {"RAM_DEMO_DATA": str(settings.data), "RAM_DEMO_CACHE": str(settings.cache)}
    env = {**os.environ, **places, "OMP_NUM_THREADS": "1"}
    launch = [*LAUNCH, "ram_demo.training.worker", str(two.path)]
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert curve(two).keys() == curve(one).keys()
    for step, loss in curve(one).items():
        assert curve(two)[step] == pytest.approx(loss, rel=1e-2)
    kinds = [e["kind"] for e in two.events()]
    assert kinds.count("started") == 1, "of several processes one writes"
    assert two.events()[kinds.index("cost")]["processes"] == 2


# accelerate shards on accelerators alone; torch, which does the work, does on processors too.
SHARDED = """
import sys
from pathlib import Path
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from ram_demo.settings import from_environment
from ram_demo.training import stages, worker
from ram_demo.training.folder import RunFolder

class Sharding(Accelerator):
    def prepare(self, *args):
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False,
        )
        AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
        return super().prepare(*args)

stages.Accelerator = Sharding
load = stages.Fit.run
def run(fit, *args):
    assert all(isinstance(p, DTensor) for p in fit.weights)
    cut = [type(m).__name__ for m in fit.model.modules() if isinstance(m, FSDPModule)]
    assert cut.count("FSDPLlamaDecoderLayer") == 2, cut
    return load(fit, *args)
stages.Fit.run = run
folder = RunFolder(Path(sys.argv[1]))
def tell(**event):
    if event["kind"] == "step" and event["step"] == 2 and "stop" in sys.argv:
        folder.ask_to_stop()
worker.work(folder, from_environment(), tell)
worker.part()
"""


@pytest.mark.parametrize(("method", "held"), [("lora", False), ("lora", True), ("full", False)])
def test_processes_that_hold_a_share_of_the_weights_learn_the_same_and_resume(
    recipe, data, anchors, settings, tmp_path, method, held
):
    rate = 0.01 if method == "lora" else 0.001
    wanted = replace(recipe, method=method, batch_size=4, epochs=2, learning_rate=rate, anchors=anchors if held else ())
    one, two = (begin(tmp_path / name, wanted, data) for name in ("one", "two"))
    worker.work(one, settings)
    (tmp_path / "sharded.py").write_text(SHARDED)
    places = {"RAM_DEMO_DATA": str(settings.data), "RAM_DEMO_CACHE": str(settings.cache)}
    env = {**os.environ, **places, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    for also in (["stop"], []):
        two.queue()
        launch = [*LAUNCH[:-1], str(tmp_path / "sharded.py"), str(two.path), *also]
        done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-4000:]
    assert [e["how"] for e in two.events() if e["kind"] == "ended"] == ["stopped", "done"]
    assert curve(two) == pytest.approx(curve(one), rel=2e-2 if held else 1e-2)
    assert {k: v.shape for k, v in weights(two).items()} == {k: v.shape for k, v in weights(one).items()}
    assert {f.name for f in two.result.iterdir()} == {f.name for f in one.result.iterdir()}


def test_the_course_of_the_learning_rate():
    assert [round(fitting.course(step, 10, 0.2), 4) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert fitting.course(6, 10, 0.2) == pytest.approx(0.5)
    assert fitting.course(9, 10, 0.2) == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(torch.pi * 7 / 8))).item())


def test_losses_that_need_rejected_answers_say_so(recipe, data, settings, tmp_path):
    data.write_text("\n".join(json.dumps({"prompt": w, "completion": "yes"}) for w in WORDS))
    folder = begin(tmp_path / "run", recipe, data)
    with pytest.raises(UserError, match="ram_dpo needs a rejected answer in every row, and line 1 has none"):
        worker.work(folder, settings)
    assert folder.events()[-1]["how"] == "failed" and "rejected answer" in folder.events()[-1]["note"]


def test_the_command_line_trains_in_two_processes(recipe, data, settings, tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text(json.dumps({k: v for k, v in asdict(recipe).items() if v is not None}))
    places = {"RAM_DEMO_DATA": str(settings.data), "RAM_DEMO_CACHE": str(settings.cache)}
    launch = [*LAUNCH, "ram_demo", "train", str(file)]
    launch += ["--data", str(data), "--out", str(tmp_path / "made"), "--max-steps", "3"]
    env = {**os.environ, **places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "adapter_model.safetensors").is_file()
    told = RunFolder(tmp_path / "made.run").events()
    assert [e["kind"] for e in told].count("started") == [e["kind"] for e in told].count("ended") == 1
    assert [e["step"] for e in told if e["kind"] == "step"] == [1, 2, 3]

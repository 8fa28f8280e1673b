"""What a step of training costs: ours (an adapter, each prompt read once) beside a plain full fine-tune by TRL.

Each measurement is a process of its own, so that its peak memory is its own; same examples, same batch, in turn.
`python -m benchmarks.training ours|trl pairs|examples` is one of them and prints one JSON object.
"""

import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.tables import Figure, Table
from ram_demo.settings import SHIPPED_ALIGNERS, Settings, from_environment

POSTS = SHIPPED_ALIGNERS.parent / "data" / "tldr.jsonl"
BATCH, STEPS, RUNS = 8, 6, 3
WARM = 2  # steps that are not counted
TOKENS = 256
REJECTED_WORDS = 40  # of the post itself: a summary that is none

Taken = Callable[[int], None]  # called after each step with how many were taken


def cost(settings: Settings) -> Iterator[Figure]:
    """Seconds a step and peak memory, by what is learnt from."""
    for kind, ours, theirs in (
        ("pairs", "ram_dpo, LoRA", "TRL DPO, every weight"),
        ("examples", "ram_sft, LoRA (two answers a prompt)", "TRL SFT, every weight (one answer)"),
    ):
        runs = [[_measure(who, kind) for who in ("ours", "trl")] for _ in range(RUNS)]
        mine, plain = zip(*runs, strict=True)
        table = Table(f"Training on {kind}: {BATCH} a step, {TOKENS} tokens at most")
        for name, found in ((ours, mine), (theirs, plain)):
            yield table.median(name, [run["seconds"] for run in found], "s/step")
        for name, found in ((ours, mine), (theirs, plain)):
            yield table.median(f"peak memory, {name}", [run["memory"] / 2**30 for run in found], "GB")
        seconds = [[run["seconds"] for run in found] for found in (plain, mine)]
        memory = [[run["memory"] for run in found] for found in (plain, mine)]
        yield table.ratio("time of the plain way over ours", *seconds, "at least 4x")
        yield table.ratio("memory of the plain way over ours", *memory)


def _measure(who: str, kind: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.training", who, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def _rows(kind: str) -> list[dict]:
    posts = [json.loads(line) for line in POSTS.read_text("utf-8").splitlines()]
    if kind == "examples":
        return posts
    return [
        {
            "prompt": post["prompt"],
            "chosen": post["completion"],
            "rejected": " ".join(post["prompt"].split()[:REJECTED_WORDS]),
        }
        for post in posts
    ]


def _nothing(_: int) -> None: ...


def ours(kind: str, settings: Settings, taken: Taken = _nothing) -> dict:
    """Seconds of a step, the median, and the process's peak memory in bytes."""
    from ram_demo.training import worker
    from ram_demo.training.folder import RunFolder
    from ram_demo.training.recipe import Recipe

    told = []

    def tell(**event) -> None:
        told.append(event)
        if event["kind"] == "step":
            taken(event["step"])

    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, _rows(kind))))
        recipe = Recipe(
            name="cost", description="", data=str(data), data_license="", held_out=0.0, max_tokens=TOKENS,
            batch_size=BATCH, loss="ram_dpo" if kind == "pairs" else "ram_sft", synthesis_tokens=48,
            checkpoint_every=STEPS,
        )  # fmt: skip
        folder = RunFolder.create(Path(place) / "run", asdict(recipe), data, STEPS)
        worker.work(folder, settings, tell)
    marks = [event["seconds"] for event in told if event["kind"] == "step"]
    each = [b - a for a, b in itertools.pairwise(marks)][WARM - 1 :]
    peak = next(event["peak_memory"] for event in told if event["kind"] == "cost")
    return {"seconds": statistics.median(each), "memory": peak}


def trl(kind: str, settings: Settings, taken: Taken = _nothing) -> dict:
    """The same of TRL with what it sets by itself, but for the batch, the length, and no padding-free kernels that a
    CPU lacks."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from ram_demo.models import sources
    from ram_demo.models.proposal import load_tokenizer

    marks = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            marks.append(time.perf_counter() - self.began)
            taken(len(marks))

    source = sources.resolve(settings.model, settings.cache)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    rows = [
        {key: [{"role": "user" if key == "prompt" else "assistant", "content": text}] for key, text in row.items()}
        for row in _rows(kind)
    ]
    with tempfile.TemporaryDirectory() as place:
        shared = {
            "output_dir": place, "per_device_train_batch_size": BATCH, "max_steps": STEPS, "report_to": "none",
            "max_length": TOKENS, "save_strategy": "no", "use_cpu": not torch.cuda.is_available(), "seed": 0,
            "gradient_checkpointing": False, "disable_tqdm": True,
        }  # fmt: skip
        config, trainer = (DPOConfig, DPOTrainer) if kind == "pairs" else (SFTConfig, SFTTrainer)
        data = Dataset.from_list(rows)
        trainer(
            model=model,
            args=config(**shared),
            train_dataset=data,
            processing_class=load_tokenizer(source.path),
            callbacks=[Clock()],
        ).train()
    return {
        "seconds": statistics.median(marks[WARM:]),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    who, kind = sys.argv[1:]
    print(json.dumps({"ours": ours, "trl": trl}[who](kind, from_environment())))

"""What each form of the weights costs in truth and in time: KL, choices and speed against float32.

The float32 model answers some prompts; then every format reads the same tokens, one by one as decoding does, and is
compared at each: KL(float32 || it) over the vocabulary, and whether the base draws the same token with the same noise.
transformers in bfloat16, what people run, is measured likewise.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import ours
from benchmarks.tables import Figure, Table
from ram_demo.decoding import monitor
from ram_demo.decoding.decide import DecodingSettings, Lane, Voices, decide
from ram_demo.decoding.sampling import SharedNoise
from ram_demo.decoding.trace import Trace
from ram_demo.models.apart import apart
from ram_demo.models.formats import FORMATS
from ram_demo.request import Choice, Request
from ram_demo.settings import Settings
from ram_demo.workbench import Workbench, open_workbench

HELD_OUT = Path(__file__).parents[1] / "assets/data/heldout.jsonl"
PROMPTS, TOKENS = 12, 80
SPEED_TOKENS = 60


@dataclass(frozen=True)
class Answer:
    """One of the float32 model's answers, and what it said at each of its tokens."""

    prompt: list[int]
    said: list[int]
    logits: list[Tensor]  # [V] before each token of `said`


def formats(settings: Settings) -> Iterator[Figure]:
    """Every format, with the float32 model's answers as the measure."""
    table = Table("Weight formats, against float32")
    truth = open_workbench(replace(settings, dtype="float32"))
    answers = [_answer(truth, prompt, seed) for seed, prompt in enumerate(_prompts())]
    path = truth.proposal.source.path
    yield from apart(lambda: _lines(table, "transformers, bfloat16", answers, _transformers(path, answers)))
    for form in ("float32", "auto", *(form for form in FORMATS if form != "float32")):
        bench = ours.open_endless(replace(settings, dtype=form))
        model = bench.proposal.model
        name = f"auto: {model.precision}" if form == "auto" else form
        if form != "float32":
            yield from apart(lambda m=model, n=name: _lines(table, n, answers, [_teach(m, a) for a in answers]))
        lane = ((Choice(ours.ALIGNER),),)
        rates = [SPEED_TOKENS / ours.compare(bench, lane, SPEED_TOKENS).total for _ in range(4)][1:]
        yield table.median(f"{name}: speed", rates, "pairs/s")


def _prompts() -> list[str]:
    return [json.loads(line)["prompt"] for line in HELD_OUT.read_text().splitlines()[:PROMPTS]]


def _answer(bench: Workbench, prompt: str, seed: int) -> Answer:
    plan = bench.plan(Request(prompt, settings=DecodingSettings(seed=seed, max_new_tokens=TOKENS)))
    (trace,) = (told for told in bench.run(plan, threading.Event()) if isinstance(told, Trace))
    said = [step.token for step in trace.steps]
    answer = Answer(list(plan.prompt_ids), said, [])
    return replace(answer, logits=apart(lambda: _teach(bench.proposal.model, answer)))


def _teach(model, answer: Answer) -> list[Tensor]:
    """The logits before each token of the answer, [V], one step at a time."""
    reading = model.prefill(answer.prompt, [None], len(answer.said))
    try:
        while True:
            next(reading)
    except StopIteration as end:
        logits, rows = end.value
    heard = [logits[0].clone()]
    for token in answer.said[:-1]:
        heard.append(model.step(torch.tensor([token]), [rows])[0])
    return heard


@torch.inference_mode()
def _transformers(folder: Path, answers: list[Answer]) -> list[list[Tensor]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    heard = []
    for answer in answers:
        logits = model(torch.tensor([answer.prompt + answer.said])).logits[0].float()
        heard.append(list(logits[len(answer.prompt) - 1 : -1]))
    return heard


def _lines(table: Table, name: str, answers: list[Answer], heard: list[list[Tensor]]) -> list[Figure]:
    divergences, same = [], []
    for seed, (answer, theirs) in enumerate(zip(answers, heard, strict=True)):
        for position, (truth, logits) in enumerate(zip(answer.logits, theirs, strict=True)):
            divergences.append(monitor.kl(torch.log_softmax(truth, -1), torch.log_softmax(logits, -1)))
            seen = torch.tensor(answer.prompt + answer.said[:position]).unique()
            same.append(_choice(logits, seen, seed, position) == answer.said[position])
    mean = sum(divergences) / len(divergences)
    return [
        table.single(f"{name}: mean KL over {len(divergences)} tokens", mean, "nats"),
        table.single(f"{name}: same choice under the same noise", sum(same) / len(same), "of 1"),
    ]


def _choice(logits: Tensor, seen: Tensor, seed: int, position: int) -> int:
    noise = SharedNoise(seed, position, len(logits))
    return decide(Lane("base"), Voices(lambda _: logits, "base", seen, noise, DecodingSettings(seed=seed))).token

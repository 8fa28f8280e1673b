"""Side by side against the plain way, in one run: `python -m ram_demo bench`, or `make bench`.

The plain way is what people run today: transformers `generate` for the base, then, for the aligned answer, a loop of
two separate forwards a token (the released code's way). It runs here in bfloat16, with the adapter merged into the
aligner beforehand: its quickest form on the machines we have. Every figure is the median of several runs after a
warm-up, and the runs of what is compared alternate, so that a machine that slows down slows both.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache

from ram_demo.decoding import engine
from ram_demo.decoding.detokenize import plain_decode
from ram_demo.decoding.engine import DecodingSettings
from ram_demo.decoding.trace import Trace
from ram_demo.request import Choice, Request
from ram_demo.settings import SHIPPED_ALIGNERS, Settings
from ram_demo.workbench import Workbench, open_workbench

PROMPT = "Explain how a bicycle stays upright while it is moving."
TOKENS = 100
RUNS = 5
ALIGNER = "concise"


@dataclass(frozen=True)
class Figure:
    """One line of the table. wanted: what the project asks of it, in words."""

    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    wanted: str = ""


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def alternate(*actions: Callable[[], float]) -> list[list[float]]:
    """Each action's RUNS results, taken in turn after one warm-up of each."""
    for action in actions:
        action()
    return [list(column) for column in zip(*([a() for a in actions] for _ in range(RUNS)), strict=True)]


def figure(name: str, values: list[float], unit: str, wanted: str = "") -> Figure:
    return Figure(name, statistics.median(values), unit, (min(values), max(values)), wanted)


def ratio(name: str, ours: list[float], theirs: list[float], wanted: str) -> Figure:
    """Medians of the run-by-run ratios."""
    return figure(name, [a / b for a, b in zip(ours, theirs, strict=True)], "x", wanted)


class PlainWay:
    """transformers alone: two whole models, the aligner's adapter merged."""

    def __init__(self, bench: Workbench):
        folder, self.ids = bench.proposal.source.path, torch.tensor([bench.proposal.encode_prompt(PROMPT)])
        self.base, aligner = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16) for _ in range(2))
        self.aligner = PeftModel.from_pretrained(aligner, SHIPPED_ALIGNERS / ALIGNER).merge_and_unload().eval()
        self.base.eval()

    @torch.inference_mode()
    def generate(self, tokens: int) -> None:
        """The base alone, by the library's own loop, at the same settings."""
        settings = DecodingSettings()
        self.base.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            pad_token_id=2,
        )

    @torch.inference_mode()
    def loop(self, tokens: int) -> None:
        """The aligned answer: a forward of the proposal and one of the aligner for each token."""
        caches = DynamicCache(config=self.base.config), DynamicCache(config=self.base.config)
        ids = self.ids
        for _ in range(tokens):
            l_p, l_q = (
                model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()
                for model, cache in zip((self.base, self.aligner), caches, strict=True)
            )
            p, order = torch.softmax(l_p, -1).sort(descending=True)
            inside = p.cumsum(-1) - p < DecodingSettings().top_p
            weight = p[inside] * torch.softmax(l_q, -1)[order[inside]]
            ids = order[torch.multinomial(weight, 1)][None]


def ours(bench: Workbench, lanes: tuple, tokens: int) -> tuple[float, float, list[float]]:
    """Seconds in all, seconds to the first token in every lane, and milliseconds of each step."""
    settings = DecodingSettings(max_new_tokens=tokens)
    plan = bench.plan(Request(PROMPT, lanes, settings=settings))
    start = time.perf_counter()
    first, steps = 0.0, []
    for event in _endless(bench, plan):
        if not isinstance(event, Trace):
            first = first or time.perf_counter() - start
            steps.append(event[0].ms)
    return time.perf_counter() - start, first, steps


def _endless(bench: Workbench, plan):
    """The plan with no end-of-text ids, so that every run has the same length."""
    proposal = bench.proposal
    return engine.decode(
        proposal.model,
        plan.prompt_ids,
        plan.lanes,
        plan.request.settings,
        plan.record,
        frozenset(),
        plain_decode(proposal.tokenizer),
        20,
        threading.Event(),
    )


def side_by_side(bench: Workbench) -> list[Figure]:
    plain, lane = PlainWay(bench), ((Choice(ALIGNER),),)
    pair_ours, base_plain, aligned_plain = alternate(
        lambda: ours(bench, lane, TOKENS)[0],
        lambda: timed(lambda: plain.generate(TOKENS)),
        lambda: timed(lambda: plain.loop(TOKENS)),
    )
    pair_plain = [a + b for a, b in zip(base_plain, aligned_plain, strict=True)]
    first_ours, first_alone, first_plain = alternate(
        lambda: ours(bench, lane, 1)[1], lambda: ours(bench, (), 1)[1], lambda: timed(lambda: plain.generate(1))
    )
    long_steps = [ours(bench, lane, 400)[2] for _ in range(2)][-1]
    growth = statistics.median(long_steps[350:]) / statistics.median(long_steps[50:100])
    return [
        figure("pairs/s, side by side", [TOKENS / t for t in pair_ours], "pairs/s"),
        figure("pairs/s, the plain way", [TOKENS / t for t in pair_plain], "pairs/s"),
        figure("base alone by generate", [TOKENS / t for t in base_plain], "tokens/s"),
        figure("aligned alone by two forwards", [TOKENS / t for t in aligned_plain], "tokens/s"),
        ratio("pair rate against the plain way", pair_plain, pair_ours, "at least 2x"),
        figure("first token in both panes", [1000 * t for t in first_ours], "ms"),
        ratio("  against generate, base alone", first_ours, first_plain, "at most 1.5x"),
        ratio("  against our own base alone", first_ours, first_alone, ""),
        Figure("a step at token 375 against one at 75", growth, "x"),
    ]


def swapping(bench: Workbench) -> list[Figure]:
    """Choosing a loaded aligner, loading one, and what it takes in memory."""
    request = Request(PROMPT, ((Choice(ALIGNER),),))
    model = bench.proposal.model
    loads, swaps = [], []
    for _ in range(RUNS + 1):
        bench.unload(ALIGNER)
        loads.append(1000 * timed(lambda: bench.aligners.get(ALIGNER)))
        swaps.append(1000 * timed(lambda: bench.plan(request)))
    assert bench.proposal.model is model
    held = sum(t.nbytes for layer in model.adapters[ALIGNER] for pair in layer.values() for t in (pair.down, pair.up))
    size = (SHIPPED_ALIGNERS / ALIGNER / "adapter_model.safetensors").stat().st_size / 2**20
    return [
        figure("swap to a loaded aligner", swaps[1:], "ms", "under 50"),
        figure("load an aligner from disk", loads[1:], "ms", "under 1000"),
        Figure(f"memory its matrices take, in float32 (its file: {size:.1f} MB, in float16)", held / 2**20, "MB"),
    ]


def start_up(settings: Settings) -> Figure:
    """From `python app.py` to a page whose model is ready, with the model converted before."""
    from gradio_client import Client

    def start() -> float:
        with tempfile.TemporaryDirectory() as data:
            port = str(settings.port + 1000)
            env = {**os.environ, "RAM_DEMO_PORT": port, "RAM_DEMO_DATA": data}
            began = time.perf_counter()
            app = subprocess.Popen(
                [sys.executable, "app.py"],
                env=env,
                cwd=Path(__file__).parents[1],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                while app.poll() is None:
                    try:
                        client = Client(f"http://127.0.0.1:{port}", verbose=False)
                        break
                    except (httpx.HTTPError, ValueError):  # it does not serve yet
                        time.sleep(0.1)
                while "ready" not in client.predict(api_name="/status"):
                    time.sleep(0.1)
                return time.perf_counter() - began
            finally:
                app.terminate()
                app.wait()

    return figure("start to a usable page, second run", [start() for _ in range(RUNS)], "s", "under 15")


def main(settings: Settings, as_json: bool) -> None:
    """Measure everything and print the table, or one JSON object a line."""
    bench = open_workbench(settings)
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    figures = [*side_by_side(bench), *swapping(bench), start_up(settings)]
    if as_json:
        for line in figures:
            print(json.dumps({**line.__dict__, "machine": machine}))
        return
    print(f"{bench.proposal.source.name}, {TOKENS} tokens, medians of {RUNS} runs after a warm-up\n{machine}\n")
    print("| | median | from - to | wanted |\n|---|---|---|---|")
    for line in figures:
        spread = f"{line.spread[0]:.2f} - {line.spread[1]:.2f}" if line.spread else ""
        print(f"| {line.name} | {line.value:.2f} {line.unit} | {spread} | {line.wanted} |")


def _processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()

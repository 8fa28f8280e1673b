"""Our own side of a measurement: a workbench whose answers never end early, and what one comparison took.

Drives the same `Workbench` that the page does. Knows nothing of peers or tables.
"""

import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.loop import Waiting
from ram_demo.decoding.trace import Trace
from ram_demo.models.prefixes import Kept
from ram_demo.models.proposal import Proposal
from ram_demo.request import Choice, Request
from ram_demo.settings import SHIPPED_ALIGNERS, Settings
from ram_demo.workbench import Workbench, open_workbench

ALIGNER = "concise"
PROMPT = "Explain how a bicycle stays upright while it is moving."
TEXT = "The river was quiet that morning, and the boats lay at the bank as if they had been forgotten. "


@dataclass(frozen=True)
class Timing:
    """Of one comparison: seconds in all, seconds to the first token of every lane, milliseconds of each step."""

    total: float
    first: float
    steps: tuple[float, ...]


class Endless(Proposal):
    """A proposal to which no token ends a text."""

    end_ids = frozenset()


def open_endless(settings: Settings) -> Workbench:
    """A workbench whose answers never end early, so that every run has the length asked for."""
    proposal = open_workbench(settings).proposal
    return Workbench(settings, Endless(proposal.source, proposal.model, proposal.tokenizer))


def with_copies(settings: Settings, data: Path, copies: int) -> Settings:
    """The settings with a data folder of their own, in which the aligner stands under so many names: for many lanes."""
    settings = replace(settings, data=data)
    for n in range(copies):
        shutil.copytree(SHIPPED_ALIGNERS / ALIGNER, settings.own_aligners / f"{ALIGNER}-{n}")
    return settings


def lanes(n: int) -> tuple[tuple[Choice, ...], ...]:
    """n aligned lanes, each with an aligner that no other uses."""
    return tuple((Choice(f"{ALIGNER}-{i}"),) for i in range(n))


def compare(bench: Workbench, aligned: tuple, tokens: int, prompt: str = PROMPT, **settings) -> Timing:
    plan = bench.plan(Request(prompt, aligned, settings=DecodingSettings(max_new_tokens=tokens, **settings)))
    start = time.perf_counter()
    first, steps = 0.0, []
    for event in bench.run(plan, threading.Event()):
        if not isinstance(event, Trace | Waiting):
            first = first or time.perf_counter() - start
            steps.append(event[0].ms)
    return Timing(time.perf_counter() - start, first, tuple(steps))


def compare_at_once(bench: Workbench, people: int, aligned: tuple, tokens: int) -> float:
    """Seconds until all of so many people have their comparison, each of a prompt and a seed of their own."""

    def ask(n: int) -> None:
        compare(bench, aligned, tokens, f"{n + 1}. {PROMPT}", seed=n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(people)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def forget_prompts(bench: Workbench) -> None:
    """As if nothing had been asked before."""
    bench.proposal.model.kept = Kept(bench.proposal.model.kept.chunk)


def prompt_of(bench: Workbench, tokens: int) -> str:
    """A prompt that has about so many tokens with its template, and not more, unless the template has them alone."""
    words = TEXT.split() * (tokens // 20 + 1)
    while (over := len(bench.proposal.encode_prompt(" ".join(words))) - tokens) > 0 and len(words) > 1:
        words = words[: max(1, len(words) - over)]
    return " ".join(words)

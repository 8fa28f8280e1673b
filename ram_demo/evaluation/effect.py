"""An aligner's effect beside the base, on prompts it was not trained on, through the real decoder; and its card.

Knows the workbench and the trace; knows nothing of training or pages.
"""

import json
import statistics
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.monitor import PAPER_TAU
from ram_demo.decoding.trace import Trace, first_difference
from ram_demo.errors import StorageError, UserError
from ram_demo.models.aligners import CARD, Package
from ram_demo.models.sources import Progress
from ram_demo.request import BASE, OWN_MODE, Choice, Request
from ram_demo.workbench import Workbench


def read_prompts(file: Path) -> list[str]:
    """The prompts of a JSONL file, one object with `prompt` a line. Raises UserError."""
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        prompts = [row["prompt"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as JSONL with a prompt a line ({error}).") from error
    if not prompts:
        raise UserError(f"{file} holds no prompts.")
    return prompts


def measure(bench: Workbench, aligner: str, prompts: Sequence[str], markers: Sequence[str], progress: Progress) -> dict:
    """Answer every prompt once in both lanes, as the card recommends and at the default settings and seed.

    Returns medians and shares, base beside aligned. markers: words that show the wanted style; an answer counts if it
    holds one of them as a word of its own.
    """
    base, aligned = [], []
    for number, prompt in enumerate(prompts):
        progress(f"Prompt {number + 1} of {len(prompts)}", number / len(prompts))
        plan = bench.plan(Request(prompt, ((Choice(aligner),),), settings=DecodingSettings(mode=OWN_MODE)))
        traces = {e.lane: e for e in bench.run(plan, threading.Event(), 1) if isinstance(e, Trace)}
        base.append(traces[BASE])
        aligned.append(traces[aligner])
    result = {"prompts": len(prompts), "base": summarise(base, markers), "aligned": summarise(aligned, markers)}
    steps = [step for trace in aligned for step in trace.steps]
    parts = [
        first_difference([s.token for s in a.steps], [s.token for s in b.steps])
        for a, b in zip(base, aligned, strict=True)
    ]
    settings = plan.request.settings
    return {
        **result,
        "mean_kl": round(statistics.fmean(s.kl for s in steps), 3),
        "mean_support": round(statistics.fmean(s.support for s in steps), 3),
        "gated_share": round(statistics.fmean(s.gated for s in steps), 3),
        f"gated_share_at_{PAPER_TAU:g}": round(statistics.fmean(s.kl > PAPER_TAU for s in steps), 3),
        "answers_that_part": sum(p is not None for p in parts),
        "settings": {
            "mode": plan.record["modes"][aligner],
            "strength": plan.record["lanes"][aligner][0]["beta"],
            "gate": plan.record["lanes"][aligner][0]["tau"],
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "max_new_tokens": settings.max_new_tokens,
        },
    }


def summarise(traces: Sequence[Trace], markers: Sequence[str]) -> dict:
    """Median length in tokens and words, the share that ended by itself, and the share that holds a marker."""
    marked = [not set(markers).isdisjoint(_words(trace.text)) for trace in traces]
    return {
        "median_tokens": statistics.median(len(t.steps) for t in traces),
        "median_words": statistics.median(len(t.text.split()) for t in traces),
        "ended_by_itself": round(statistics.fmean(t.done == "eos" for t in traces), 3),
        **({"with_markers": round(statistics.fmean(marked), 3)} if markers else {}),
    }


def _words(text: str) -> set[str]:
    return {word.strip('.,;:!?"()“”').lower() for word in text.replace("'", " ").split()}


def write(package: Package, result: dict) -> None:
    """Put the result into the package's card on disk. Raises StorageError."""
    card = replace(package.card, effect=result)
    try:
        (package.folder / CARD).write_text(json.dumps(card.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise StorageError(f"The card of {package.name} cannot be written: {error.strerror or error}.") from error

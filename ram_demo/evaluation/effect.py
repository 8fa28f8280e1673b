"""An aligner's effect beside the base, on prompts it was not trained on, through the real decoder; and its card.

Knows the workbench and the trace; knows nothing of training or pages.
"""

import json
import math
import statistics
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.monitor import PAPER_TAU
from ram_demo.decoding.trace import Trace, first_difference
from ram_demo.errors import UserError
from ram_demo.evaluation.answers import repetition, summarise
from ram_demo.evaluation.likelihood import Text, log_likelihoods
from ram_demo.models.aligners import Package, write_card
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
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise UserError(f"{file} has a prompt that is no text or empty.")
    return prompts


def measure(
    bench: Workbench, aligner: str, prompts: Sequence[str], markers: Sequence[str], progress: Progress, seeds: int = 1
) -> dict:
    """Answer every prompt in both lanes, as the card recommends and at the default settings, once at each of so many
    seeds, the default one first.

    Returns medians and shares, base beside aligned (see `answers.summarise`), and the perplexity of both lanes' answers
    under the proposal.
    """
    base, aligned, asked = [], [], []
    own = DecodingSettings(mode=OWN_MODE)
    runs = [(prompt, own.seed + more) for prompt in prompts for more in range(seeds)]
    for number, (prompt, seed) in enumerate(runs):
        progress(f"Answer {number + 1} of {len(runs)}", number / len(runs))
        plan = bench.plan(Request(prompt, ((Choice(aligner),),), settings=replace(own, seed=seed)))
        traces = {e.lane: e for e in bench.run(plan, threading.Event(), 1) if isinstance(e, Trace)}
        base.append(traces[BASE])
        aligned.append(traces[aligner])
        asked.append(plan.prompt_ids)
    progress("What the proposal says of the answers", 0.95)
    result = {
        "prompts": len(prompts),
        **{
            lane: {**summarise(traces, markers), "perplexity": round(_perplexity(bench, asked, traces), 3)}
            for lane, traces in (("base", base), ("aligned", aligned))
        },
    }
    steps = [step for trace in aligned for step in trace.steps]
    parts = [
        first_difference([s.token for s in a.steps], [s.token for s in b.steps])
        for a, b in zip(base, aligned, strict=True)
    ]
    return {
        **result,
        **_repetition_added(base, aligned, seeds),
        "mean_kl": round(statistics.fmean(s.kl for s in steps), 3),
        "mean_support": round(statistics.fmean(s.support for s in steps), 3),
        "gated_share": round(statistics.fmean(s.gated for s in steps), 3),
        f"gated_share_at_{PAPER_TAU:g}": round(statistics.fmean(s.kl > PAPER_TAU for s in steps), 3),
        "answers_that_part": sum(p is not None for p in parts),
        "settings": {
            "mode": plan.record["modes"][aligner],
            "strength": plan.record["lanes"][aligner][0]["beta"],
            "gate": plan.record["lanes"][aligner][0]["tau"],
            "temperature": own.temperature,
            "top_p": own.top_p,
            "seed": own.seed,
            "seeds": seeds,
            "max_new_tokens": own.max_new_tokens,
        },
    }


def _repetition_added(base: Sequence[Trace], aligned: Sequence[Trace], seeds: int) -> dict[str, float]:
    """How much more the aligned answers repeat themselves and, of several prompts, that mean's standard error. An
    answer is compared with the base's to the same prompt and seed; the answers to one prompt are alike, so they count
    as one."""
    apart = [
        repetition([s.token for s in b.steps]) - repetition([s.token for s in a.steps])
        for a, b in zip(base, aligned, strict=True)
    ]
    each = [statistics.fmean(apart[at : at + seeds]) for at in range(0, len(apart), seeds)]
    found = {"repetition_added": round(statistics.fmean(each), 4)}
    if len(each) > 1:
        found["repetition_added_error"] = round(statistics.stdev(each) / math.sqrt(len(each)), 4)
    return found


def _perplexity(bench: Workbench, prompts: Sequence[Sequence[int]], traces: Sequence[Trace]) -> float:
    """exp of the mean of -log P_M over all tokens of all answers: how strange the proposal finds them."""
    texts = [Text(p, [step.token for step in trace.steps]) for p, trace in zip(prompts, traces, strict=True)]
    with bench.loop.between():
        total = sum(log_likelihoods((bench.proposal.model, None), texts))
    return math.exp(-total / sum(len(text.answer) for text in texts))


def write(package: Package, result: dict) -> None:
    """Put the result into the package's card on disk. Raises StorageError."""
    write_card(package.folder, replace(package.card, effect=result))

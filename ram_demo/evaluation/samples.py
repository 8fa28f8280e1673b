"""The same few prompts answered at every checkpoint of a run, base beside aligned, through the decoder that people use.

Knows the workbench; knows nothing of training or where the samples are kept.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import Trace
from ram_demo.evaluation import health
from ram_demo.evaluation.answers import repetition
from ram_demo.evaluation.likelihood import Text
from ram_demo.models import proposal as proposals
from ram_demo.models.sources import Source
from ram_demo.request import BASE, OWN_MODE, Choice, Request
from ram_demo.settings import Settings
from ram_demo.workbench import Workbench

TOKENS = 48  # an answer's beginning shows where it is going
SHOWN = 240  # characters of a prompt that are kept with its answers


@dataclass(frozen=True)
class Asked:
    """words: the prompt as a person reads it; text: its ids, with the wanted answer's."""

    words: str
    text: Text


def bench_beside(settings: Settings, source: Source) -> Workbench:
    """A workbench of a run's own, on the proposal it trains for."""
    return Workbench(settings, proposals.load(source, settings.device, settings.dtype))


def load(bench: Workbench, package: Path) -> str:
    """Make the package that lies in this folder the one that `bench` weighs with. Returns its name there."""
    bench.unload(package.name)
    bench.registry.own = package.parent
    return package.name


def answer(bench: Workbench, package: Path, prompts: Sequence[Asked], stop: threading.Event) -> list[dict]:
    """Each prompt with both lanes' answers, decoded as the card recommends: how they ended, what the monitor saw, and
    what is wrong with the aligned one."""
    name = load(bench, package)
    settings = DecodingSettings(mode=OWN_MODE, max_new_tokens=TOKENS)
    found = []
    for asked in prompts:
        plan = replace(
            bench.plan(Request("?", ((Choice(name),),), settings=settings)), prompt_ids=tuple(asked.text.prompt)
        )
        lanes = {e.lane: e for e in bench.run(plan, stop, 1) if isinstance(e, Trace)}
        base, aligned = lanes[BASE], lanes[name]
        found.append(
            {
                "prompt": asked.words[:SHOWN],
                "base": base.text,
                "aligned": aligned.text,
                "done": aligned.done,
                "kl": round(aligned.mean_kl, 3),
                "gated_share": round(aligned.gated_share, 3),
                "support": round(sum(s.support for s in aligned.steps) / max(1, len(aligned.steps)), 3),
                "repetition": round(repetition([s.token for s in aligned.steps]), 3),
                "base_repetition": round(repetition([s.token for s in base.steps]), 3),
                # That it was cut is no news: all are, after so few tokens.
                "health": [f.to_json() for f in health.findings(aligned) if f.kind != health.CUT],
            }
        )
    return found

"""What the page is told of a run: lanes once, then only the steps that are new. The form that `stage.js` reads.

Plain data; model text stays text (the page puts it in place as text, never as markup). An update travels as one JSON
text: gradio sends differences of structured values, and gets them wrong where lists inside lists shrink.
"""

import json
from collections.abc import Iterable

from ram_demo.decoding.trace import Step, Trace
from ram_demo.request import BASE
from ram_demo.runs import News, Run

SHOWN = 8  # candidates a token shows on the page; the trace keeps more


def lane_heads(run: Run) -> list[dict]:
    """Name, title and the small print of each pane, in the order in which they stand."""
    if run.plan is None:
        return []
    return [
        {
            "name": lane,
            "title": "Base" if lane == BASE else lane,
            "detail": _detail(aligners, run.plan.record["modes"][lane]),
        }
        for lane, aligners in run.plan.record["lanes"].items()
    ]


def _detail(aligners: list[dict], mode: str) -> str:
    if not aligners:
        return "the proposal alone"
    strengths = " + ".join(f"{aligner['beta']:g}" for aligner in aligners)
    return f"strength {strengths}, {mode}"


def as_text(value: dict) -> str:
    """JSON without a "<", so that nothing on the way can take model text for markup."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def payload(run: Run, news: News, again: tuple[Step, ...] = ()) -> dict:
    """One update. again: the steps of the update before, sent twice as a page may drop one of two quick updates."""
    return {
        "run": run.id if run.plan else None,
        "state": news.state,
        "note": news.note,
        "lanes": lane_heads(run),
        "steps": [step_for_page(step) for step in (*again, *news.steps)],
        "traces": [trace_for_page(trace) for trace in run.traces.values()],
    }


def everything(run: Run) -> dict:
    """The whole run so far, for a page that missed something."""
    return payload(run, run.news(0, wait=0))


def trace_for_page(trace: Trace) -> dict:
    summary = trace.summary()
    del summary["settings"]
    return summary


def step_for_page(step: Step) -> dict:
    candidates = list(step.candidates)
    shown = candidates[:SHOWN]
    for token in (step.token, step.base_token):
        if all(c.token != token for c in shown):
            shown.append(next(c for c in candidates if c.token == token))
    return {
        "lane": step.lane,
        "i": step.index,
        "token": step.token,
        "text": step.text,
        "push": round(step.push, 3),
        "gated": step.gated,
        "other": step.token != step.base_token,
        "kl": round(step.kl, 4),
        "support": round(step.support, 4),
        "entropy": round(step.entropy, 3),
        "nucleus": step.nucleus,
        "candidates": [[c.text, *(round(x, 5) for x in (c.p, c.q, c.weight))] for c in shown],
        "chosen": _place(shown, step.token),
        "base": _place(shown, step.base_token),
    }


def _place(candidates: Iterable, token: int) -> int:
    return next(i for i, c in enumerate(candidates) if c.token == token)

"""What the page is told of a run: lanes once, then only the steps that are new. The form that `stage.js` reads.

The page asks for what it lacks, saying how much it has heard, so nothing is sent that it has and nothing can be lost.
Plain data; model text stays text (the page puts it in place as text, never as markup).
"""

import json
from collections.abc import Iterable

from ram_demo.decoding.trace import Step, Trace
from ram_demo.runs import Run
from ram_demo.views import lane_head

SHOWN = 8  # candidates a token shows on the stage; the trace keeps more


def lane_heads(run: Run) -> list[dict]:
    """Name, title and the small print of each pane, in the order in which they stand."""
    if run.plan is None:
        return []
    return [lane_head(run.plan.record, lane) for lane in run.plan.record["lanes"]]


def as_text(value: dict) -> str:
    """JSON without a "<", so that nothing on the way can take model text for markup."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def payload(run: Run, heard: int) -> dict:
    """What is new to a page that has heard so many events of a run: the panes' heads to one that has heard none."""
    news = run.news(heard, wait=0)
    return {
        "state": news.state,
        "note": news.note,
        "lanes": lane_heads(run) if heard == 0 else [],
        "steps": [step_for_page(step) for step in news.steps],
        "traces": [trace_for_page(trace) for trace in news.traces],
        "heard": news.heard,
    }


def trace_for_page(trace: Trace) -> dict:
    summary = trace.summary()
    del summary["settings"]
    return summary


def step_for_page(step: Step) -> dict:
    shown = step.candidates(SHOWN)
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
        "ranks": [step.rank_p, step.rank],
        "candidates": [[c.text, *(round(x, 5) for x in (c.p, c.q, c.weight))] for c in shown],
        "chosen": _place(shown, step.token),
        "base": _place(shown, step.base_token),
    }


def _place(candidates: Iterable, token: int) -> int:
    return next(i for i, c in enumerate(candidates) if c.token == token)

"""Traces made by hand: settings as they are recorded, steps whose candidates are given as numbers. Runs no model."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.record import from_record
from ram_demo.decoding.trace import Slate, Step, Trace


def settings(lane: str, aligners: Sequence[tuple[str, float]] = (), mode: str = "product", **changes) -> dict:
    """aligners: (name, strength) of each that weighs in the lane."""
    described = [{"name": name, "beta": beta, "tau": None, "revision": "r"} for name, beta in aligners]
    known = {"tau": "auto", "proposal": "P", "proposal_revision": "r", "engine": "lean", "precision": "float32"}
    return {
        **asdict(DecodingSettings(mode=mode)), **known, "lanes": {lane: described}, "modes": {lane: mode}, "forced": [],
        **changes,
    }  # fmt: skip


def slate(*candidates: tuple[int, float, float, float]) -> Slate:
    """(token, Pt, Q, weight) of each, all of them in N, which has all of P's mass."""
    ids, p, q, weight = zip(*candidates, strict=True)
    return Slate(
        ids=ids,
        texts=tuple(f"<{i}>" for i in ids),
        inside=len(ids),
        log_p=tuple(map(math.log, p)),
        noise=(0.0,) * len(ids),
        draws=(0,) * len(ids),
        weight=weight,
        log_q=(tuple(map(math.log, q)),),
        log_q0=(None,),
    )


def step(lane: str = "one", index: int = 0, token: int = 5, **changes) -> Step:
    values = {
        "text": f"<{token}>", "kl": 0.5, "gated": False, "nucleus": 3, "support": 0.9, "entropy": 0.3,
        "base_token": token, "push": 0.1, "ms": 20.0, "slate": slate((token, 0.5, 0.4, 0.6)),
    }  # fmt: skip
    return Step(lane, index, token, **{**values, **changes})


def trace(lane: str, tokens: Sequence[int], aligners: Sequence[tuple[str, float]] = (), **changes) -> Trace:
    """A lane that drew these, and ended by itself."""
    steps = tuple(step(lane, i, token, gated=i == 0) for i, token in enumerate(tokens))
    text = "".join(step.text for step in steps)
    return Trace(lane, "eos", text, 9.0, 80.0, settings(lane, aligners, **changes), steps)


def change(record: dict, at: int) -> None:
    """Make a written trace say that it drew another one of a step's candidates."""
    made = from_record(record).steps[at]
    record["steps"]["token"][at] = next(i for i in made.slate.ids[: made.slate.inside] if i != made.token)

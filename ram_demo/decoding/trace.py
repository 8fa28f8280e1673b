"""What a step decided, frozen, and its JSON for the command line: the keys of its contract. Computes nothing.

A whole trace's own JSON, which is kept and shared, is in `record.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

BASE = "base"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token that was put forward. p is Pt and q is Q of formula 1, both after their temperature; weight is pi."""

    token: int
    text: str
    p: float
    q: float
    weight: float


@dataclass(frozen=True, slots=True)
class Slate:
    """What is kept of a step's candidates, in columns of one length m: first those in N, the weightiest first, and
    after these `inside` a few that Q holds likely and N leaves out.

    log_p: log softmax(l_P / T_P) over V; noise: G of (9); draws: how often `sis` drew each; weight: pi, 0 outside N;
    log_q: log Q_i of (1) over V, a column for each aligner, and in the base's lane one, of P_M itself at T_Q; log_q0:
    likewise, None where nobody asked. NaN stands for what was not kept (`record.py`).
    """

    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    inside: int = 0
    log_p: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    draws: tuple[int, ...] = ()
    weight: tuple[float, ...] = ()
    log_q: tuple[tuple[float, ...], ...] = ()
    log_q0: tuple[tuple[float, ...] | None, ...] = ()


@dataclass(frozen=True)
class Monitor:
    """One aligner's own gate in a lane that composes several."""

    aligner: str
    kl: float
    gated: bool
    support: float


@dataclass(frozen=True, slots=True)
class Step:
    """One token of one lane, with everything that decided it.

    kl: KL(P_M || Q) in nats (the largest, where several aligners are composed); gated: every aligner was gated, so
    the step fell back to Pt; nucleus: |N|; support: Q's mass on N; entropy: of pi, in nats; base_token: what the base
    would have drawn in this very context; push: log(pi / Pt) of the token drawn, before
    the final temperature, 0 where nothing weighed; rank_p, rank: the drawn token's place in N by Pt and by pi, from 1;
    mass: P's on N, so that Pt = P / mass; compose: log of what the product of several Q_i sums to over V, 0 for one;
    ms: time of the whole step, all lanes. The base lane reads as one weighed by P_M itself: KL 0, q is P after T_Q.
    """

    lane: str
    index: int
    token: int
    text: str
    kl: float
    gated: bool
    nucleus: int
    support: float
    entropy: float
    base_token: int
    push: float
    ms: float
    rank_p: int = 1
    rank: int = 1
    mass: float = 1.0
    compose: float = 0.0
    slate: Slate = Slate()
    monitors: tuple[Monitor, ...] = ()

    def candidates(self, count: int = 0) -> tuple[Candidate, ...]:
        """The `count` of N that weigh most by Pt or pi (0: all that are kept), weightiest first, and always the two
        tokens that the step names."""
        slate = self.slate
        listed = []
        for i in range(slate.inside):
            q = sum(log_q[i] for log_q in slate.log_q) - self.compose
            p = math.exp(slate.log_p[i]) / self.mass
            listed.append(Candidate(slate.ids[i], slate.texts[i], p, math.exp(q), slate.weight[i]))
        top = sorted(listed, key=lambda c: -max(c.p, c.weight))[: count or len(listed)]
        named = (self.token, self.base_token)
        return tuple(c for c in listed if c in top or c.token in named)

    def to_json(self, count: int = 0) -> dict:
        """As the command line prints it, with `count` candidates."""
        record = {name: getattr(self, name) for name in STEP_KEYS}
        record["candidates"] = [{name: getattr(c, name) for name in CANDIDATE_KEYS} for c in self.candidates(count)]
        if self.monitors:
            record["monitors"] = [vars(monitor) for monitor in self.monitors]
        return record


STEP_KEYS = [name for name in Step.__slots__ if name not in ("slate", "monitors")]
CANDIDATE_KEYS = Candidate.__slots__


@dataclass(frozen=True)
class Trace:
    """All steps of one lane, why it ended (eos, length or stopped), and the settings and seed that replay it.

    text: the answer, decoded whole, what was forced at its beginning included; tokens_per_s: steps after the first over
    the time they took; first_token_ms: from the request to the first token, prompt included.
    """

    lane: str
    done: str
    text: str
    tokens_per_s: float
    first_token_ms: float
    settings: dict
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def gated_share(self) -> float:
        return sum(step.gated for step in self.steps) / len(self.steps) if self.steps else 0.0

    @property
    def mean_kl(self) -> float:
        return sum(step.kl for step in self.steps) / len(self.steps) if self.steps else 0.0

    def summary(self) -> dict:
        """The closing object of a lane in the command line's JSON."""
        return {
            "lane": self.lane,
            "done": self.done,
            "text": self.text,
            "tokens": len(self.steps),
            "tokens_per_s": self.tokens_per_s,
            "first_token_ms": self.first_token_ms,
            "gated_share": self.gated_share,
            "mean_kl": self.mean_kl,
            "seed": self.settings["seed"],
            "settings": self.settings,
        }


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The index of the first token in which two answers differ, or None if one is the other or begins it."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)

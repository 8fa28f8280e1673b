"""What a step decided, frozen, and its JSON: the keys of the command-line contract. Computes nothing."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token that was put forward. p is Pt and q is Q of formula 1, both after their temperature; weight is pi."""

    token: int
    text: str
    p: float
    q: float
    weight: float


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
    the final temperature, 0 where nothing weighed;
    ms: time of the whole step, all lanes; candidates: the weightiest by p or pi, with the two tokens named always
    among them. The base lane reads as one weighed by P_M itself: KL 0, q is P after T_Q.
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
    candidates: tuple[Candidate, ...]
    monitors: tuple[Monitor, ...] = ()

    def to_json(self) -> dict:
        record = asdict(self)
        if not self.monitors:
            del record["monitors"]
        return record

    @classmethod
    def from_json(cls, record: dict) -> "Step":
        """The step that `to_json` gave."""
        candidates = tuple(Candidate(**candidate) for candidate in record["candidates"])
        monitors = tuple(Monitor(**monitor) for monitor in record.get("monitors", ()))
        return cls(**{**record, "candidates": candidates, "monitors": monitors})


@dataclass(frozen=True)
class Trace:
    """All steps of one lane, why it ended (eos, length or stopped), and the settings and seed that replay it.

    text: the answer, decoded whole; tokens_per_s: steps after the first over the time they took; first_token_ms: from
    the request to the first token, prompt included.
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

    def to_json(self) -> dict:
        return {**self.summary(), "steps": [step.to_json() for step in self.steps]}

    @classmethod
    def from_json(cls, record: dict) -> "Trace":
        """The trace that `to_json` gave."""
        kept = {name: record[name] for name in ("lane", "done", "text", "tokens_per_s", "first_token_ms", "settings")}
        return cls(**kept, steps=tuple(Step.from_json(step) for step in record["steps"]))


def first_difference(a: list[int], b: list[int]) -> int | None:
    """The index of the first token in which two answers differ, or None if one is the other or begins it."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)

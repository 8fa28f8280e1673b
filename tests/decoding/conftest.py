"""One tiny proposal with two adapters on it, a whole small model beside it, and a short way to run lanes on them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ram_demo.decoding.decide import DecodingSettings, Lane, Weigher
from ram_demo.decoding.detokenize import plain_decode
from ram_demo.decoding.engine import Forward, compare
from ram_demo.decoding.trace import Step, Trace
from ram_demo.models.lean import LeanModel
from ram_demo.models.reference import ReferenceModel
from tests import tiny

CPU = torch.device("cpu")
PROMPT = (1, 70, 75, 201, 260, 90, 12)


@dataclass(frozen=True)
class Folders:
    """base, two adapters on it, and another model with the same tokenizer and a padded vocabulary."""

    base: Path
    first: Path
    second: Path
    other: Path


@dataclass
class Run:
    """What came out of `decode`: the steps of each lane, its trace, and everything in order."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    events: list = field(default_factory=list)

    def take(self, item) -> None:
        self.events.append(item)
        if isinstance(item, Trace):
            assert item.lane not in self.traces
            self.traces[item.lane] = item
        else:
            for step in item:
                self.steps.setdefault(step.lane, []).append(step)

    def tokens(self, lane: str) -> list[int]:
        return [step.token for step in self.steps[lane]]


def alone(growing):
    """What one comparison tells, with nobody beside it: its forwards are answered as it asks for them."""
    try:
        asked = next(growing)
        while True:
            if isinstance(asked, Forward):
                asked = growing.send({m: m.step(tokens, [rows]) for m, (tokens, rows) in asked.asks.items()})
            else:
                if asked is not None:
                    yield asked
                asked = next(growing)
    except StopIteration:
        return
    finally:
        growing.close()


class Bench:
    """The tiny models, through one engine."""

    def __init__(self, folders: Folders, engine: type):
        self.tokenizer = tiny.byte_level()
        self.proposal = engine(folders.base, CPU, "float32")
        self.proposal.add_adapter("first", folders.first)
        self.proposal.add_adapter("second", folders.second)
        self.other = engine(folders.other, CPU, "float32")
        self.seats = {
            "first": (self.proposal, "first"),
            "second": (self.proposal, "second"),
            "other": (self.other, None),
        }

    def lane(self, *choices: tuple, tau: float | None = None) -> Lane:
        """choices: (aligner, strength); q0 is the proposal, also for the whole model."""
        weighers = (Weigher(name, self.seats[name], beta, tau, (self.proposal, None)) for name, beta in choices)
        return Lane("+".join(name for name, _ in choices) or "base", tuple(weighers))

    def generator(
        self, lanes, settings=None, end_ids=frozenset(), stop=None, keep=0, proposal=None, forced=(), **changes
    ):
        settings = replace(settings or DecodingSettings(max_new_tokens=16), **changes)
        record = {"seed": settings.seed}
        decoder = plain_decode(self.tokenizer)
        model = proposal or self.proposal
        return alone(compare(model, PROMPT, lanes, settings, record, end_ids, decoder, keep, stop, forced))

    def run(self, lanes, *args, **kwargs) -> Run:
        run = Run()
        for item in self.generator(lanes, *args, **kwargs):
            run.take(item)
        return run


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Threads that wait for each other cost a tiny product far more than they save, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Folders:
    """The weights are spread so that a step's entropy is a nat or four and an adapter moves it by about one."""
    home = tmp_path_factory.mktemp("tiny")
    base = tiny.save(home / "base", tiny.model(spread=0.5))
    other = tiny.save(home / "other", tiny.model(seed=5, spread=0.45, vocab_size=tiny.BYTE_LEVEL_SIZE + 5))
    return Folders(
        base=base,
        first=tiny.adapter(home / "first", base, 1, 0.15),
        second=tiny.adapter(home / "second", base, 2, 0.12, target_modules=["q_proj", "v_proj", "down_proj"]),
        other=other,
    )


@pytest.fixture(scope="session")
def bench(folders) -> Bench:
    return Bench(folders, LeanModel)


@pytest.fixture(scope="session")
def reference_bench(folders) -> Bench:
    return Bench(folders, ReferenceModel)


@pytest.fixture(scope="session")
def full_forward(folders):
    """(seat's name, ids) -> logits of the last position, by one whole forward of plain transformers models."""
    plain = {
        "base": AutoModelForCausalLM.from_pretrained(folders.base, dtype=torch.float32).eval(),
        "other": AutoModelForCausalLM.from_pretrained(folders.other, dtype=torch.float32).eval(),
        "first": tiny.merged(folders.base, folders.first),
        "second": tiny.merged(folders.base, folders.second),
    }

    @torch.inference_mode()
    def logits(name: str, ids) -> torch.Tensor:
        return plain[name](torch.tensor([list(ids)])).logits[0, -1]

    logits.models = plain
    return logits

"""Two hundred comparisons of eight people at once, with stops and swaps as chance has it: the same answers as alone,
and nothing left behind."""

import gc
import random
import threading
from dataclasses import dataclass, replace
from queue import SimpleQueue

import psutil
import pytest
import torch

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.loop import Waiting
from ram_demo.decoding.trace import Trace
from ram_demo.request import Choice, Request
from ram_demo.workbench import Workbench
from tests import tiny, tiny_workbench
from tests.tiny_workbench import PATIENCE

one_thread = tiny_workbench.one_thread
COMPARISONS, PEOPLE = 200, 8
PROMPTS = ("the tin", "an in the an", "the hen in the tin " * 12, "0123456789" * 20)  # the last two of several pieces
LANES = ("a", "b", "a+b", "whole")
FEW = 2**16  # bytes
GROWTH = 16 * 2**20  # bytes that the process may hold more at the end than after the first third


@dataclass(frozen=True)
class Asked:
    """stop_at: after how many events it is stopped; None: never. forgets: an aligner that is unloaded before."""

    request: Request
    stop_at: int | None
    forgets: str | None


@dataclass(frozen=True)
class Said:
    """Of a trace what is compared: traces themselves would be most of what is held."""

    tokens: list[int]
    kl: list[float]
    done: str
    text: str


def plan_all() -> list[Asked]:
    chance = random.Random(11)
    everything = []
    for _ in range(COMPARISONS):
        names = chance.sample(LANES, chance.randint(0, 2))
        lanes = tuple(tuple(Choice(part, chance.choice((0.5, 1.0, 2.0))) for part in name.split("+")) for name in names)
        settings = DecodingSettings(
            mode=chance.choice(("product", "par", "sis")),
            seed=chance.randrange(1000),
            max_new_tokens=chance.randint(1, 16),
            top_p=chance.choice((0.9, 1.0)),
        )
        request = Request(chance.choice(PROMPTS), lanes, chance.choice(("off", 0.3)), settings)
        stop_at = chance.randint(0, 6) if chance.random() < 0.3 else None
        everything.append(Asked(request, stop_at, chance.choice(LANES[:2]) if chance.random() < 0.1 else None))
    return everything


@pytest.fixture
def bench(tmp_path):
    """A proposal, two adapters on it and a whole model beside; memory for a few comparisons at a time."""
    wide = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "max_position_embeddings": 512}
    base = tiny.save(tmp_path / "base", tiny.model(**wide, spread=0.35))
    settings = replace(tiny_workbench.settings(tmp_path), memory=0.002)
    for seed, name in enumerate("ab"):
        tiny.adapter(settings.own_aligners / name, base, seed=seed, r=8)
    tiny.save(settings.own_aligners / "whole", tiny.model(seed=4, max_position_embeddings=512))
    return Workbench(settings, tiny_workbench.load(base))


swapping = threading.Lock()


def ask(bench: Workbench, asked: Asked) -> dict[str, Said]:
    """One comparison from beginning to end, read as it goes."""
    stop, told = threading.Event(), SimpleQueue()
    with swapping:  # a plan is for what is loaded
        if asked.forgets:
            bench.unload(asked.forgets)
        bench.submit(bench.plan(asked.request), stop, told.put)
    traces, events = {}, 0
    while (event := told.get(timeout=PATIENCE)) is not None:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Waiting):
            continue
        if isinstance(event, Trace):
            tokens, kl = [s.token for s in event.steps], [s.kl for s in event.steps]
            traces[event.lane] = Said(tokens, kl, event.done, event.text)
        else:
            events += 1
        if asked.stop_at is not None and events >= asked.stop_at:
            stop.set()
    return traces


def ask_all(bench: Workbench, everything: list[Asked], results: dict[int, dict[str, Said]], offset: int) -> None:
    """By so many people at once, each taking the next that nobody has taken."""
    left, errors = iter(list(enumerate(everything, offset))), []
    taking = threading.Lock()

    def person() -> None:
        try:
            while True:
                with taking:
                    n, asked = next(left, (None, None))
                if asked is None:
                    return
                results[n] = ask(bench, asked)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=person) for _ in range(PEOPLE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * PATIENCE)
    assert not errors and not any(thread.is_alive() for thread in threads)
    for thread in threading.enumerate():
        if thread.name == "decoding":
            thread.join(PATIENCE)


def held() -> tuple[int, int, int]:
    """Bytes of the process, tensors and threads."""
    gc.collect()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return psutil.Process().memory_info().rss, tensors, threading.active_count()


def test_two_hundred_comparisons_in_company_are_the_same_alone_and_leave_nothing(bench):
    everything, together = plan_all(), {}
    for model in (bench.proposal.model, bench.aligners.get("whole").model):
        model.said.budget = FEW  # answers are kept on purpose, as many as fit
    third = COMPARISONS // 3
    ask_all(bench, everything[:third], together, 0)
    for name in LANES[:2]:  # what is loaded differs otherwise
        bench.aligners.get(name)
    memory, tensors, threads = held()
    ask_all(bench, everything[third:], together, third)
    for name in LANES[:2]:
        bench.aligners.get(name)
    after = held()
    assert after[0] - memory < GROWTH
    # Prompts that were read are kept, a few tensors each: as many as there are (prompt, adapter) pairs at most.
    assert after[1] - tensors <= 3 * len(PROMPTS) * 4
    assert after[2] <= threads
    assert not bench.loop.active and not bench.loop.line

    alone = Workbench(replace(bench.settings, memory=1.0), bench.proposal)
    bench.proposal.model.kept.prompts.clear()
    stopped = 0
    for n, asked in enumerate(everything):
        expected = ask(alone, replace(asked, stop_at=None, forgets=None))
        if asked.stop_at is None:
            assert set(together[n]) == set(expected)
        for lane, trace in together[n].items():
            whole = expected[lane]
            assert trace.tokens == whole.tokens[: len(trace.tokens)]
            assert trace.kl == pytest.approx(whole.kl[: len(trace.kl)], abs=1e-4)
            if trace.done == "stopped":
                stopped += 1
            else:
                assert (trace.done, trace.text) == (whole.done, whole.text)
    assert stopped > 20

"""The loop that answers everybody: with stand-ins that ask for forwards as comparisons do, and with real ones.

The stand-ins are of numbers that can be followed by hand: a person's answer to step n is n.
"""

import itertools
import random
import threading
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
import torch

from ram_demo.decoding import engine, loop
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.detokenize import plain_decode
from ram_demo.decoding.engine import Forward
from ram_demo.decoding.loop import Loop, Waiting
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from tests.decoding.conftest import PROMPT

PATIENCE = 30  # seconds until a test that would hang fails instead


class Model:
    """Says back what it is told, and remembers whose rows stood in each forward. fails: by name, what it raises.

    held: nobody's forward goes on before a `let`."""

    def __init__(self, held: bool = False):
        self.forwards: list[tuple[str, ...]] = []
        self.fails: dict[str, Exception] = {}
        self.inside = threading.Event()
        self._let = threading.Semaphore(0) if held else None
        self._entered = threading.Semaphore(0)

    def step(self, tokens, groups):
        if self._let:
            self._entered.release()
            assert self._let.acquire(timeout=PATIENCE), "nobody let the model go on"
        self.inside.set()
        self.forwards.append(tuple(groups))
        for name in groups:
            if name in self.fails:
                raise self.fails[name]
        self.inside.clear()
        return tokens[:, None].float()

    def meet(self) -> None:
        """Until the model stands before its next forward."""
        assert self._entered.acquire(timeout=PATIENCE), "the model was not asked for another forward"

    def let(self, forwards: int = 1) -> None:
        """Let so many more through, the one it stands before first; then it stands before the next."""
        for _ in range(forwards):
            self._let.release()
            self.meet()

    def free(self) -> None:
        self._let.release(1000)


class Person:
    """Somebody in the loop: what they were told, and whether their comparison was closed."""

    def __init__(self, name: str, model: Model, pieces: int = 1, steps: int = 4, breaks_at: int | None = None):
        self.name, self.told, self.closed, self.done = name, [], False, threading.Event()
        self.waiting: list[Waiting] = []
        self.stop, self.steps = threading.Event(), steps
        self.growing = self._grow(model, pieces, steps, breaks_at)

    def _grow(self, model, pieces, steps, breaks_at):
        try:
            for _ in range(pieces):
                yield None
            for n in range(steps):
                answer = yield Forward({model: (torch.tensor([n]), self.name)})
                if n == breaks_at:
                    raise ZeroDivisionError(self.name)
                yield ("said", int(answer[model]))
        finally:
            self.closed = True

    def hear(self, told) -> None:
        if isinstance(told, Waiting):
            self.waiting.append(told)
            return
        self.told.append(told)
        if told is None or isinstance(told, Exception):
            self.done.set()

    def join(self, there: Loop, size: int = 1, rows: int = 1, uses=()) -> "Person":
        there.submit(self.growing, size, rows, self.steps, uses, self.stop, self.hear)
        return self

    def end(self):
        """What ended it: None, or an exception."""
        assert self.done.wait(PATIENCE), f"{self.name} was never told that it ended"
        return self.told[-1]

    @property
    def whole(self) -> bool:
        return self.told == [*(("said", n) for n in range(self.steps)), None]


def rest(there: Loop) -> None:
    """Until the loop's thread has ended."""
    thread = there._thread
    if thread:
        thread.join(PATIENCE)
    assert there._thread is None and not there.active and not there.line


# Coming and going ---------------------------------------------------------------------------------------------------


def test_newcomers_join_the_next_forward_and_those_who_are_done_leave_it():
    there, model = Loop(100), Model(held=True)
    a = Person("a", model, steps=4).join(there)
    model.meet()
    b = Person("b", model, steps=3).join(there)
    model.let()
    model.let()
    c = Person("c", model, pieces=2, steps=1).join(there)
    model.free()
    assert [p.end() for p in (a, b, c)] == [None] * 3
    assert all(p.whole and p.closed for p in (a, b, c))
    # A piece of a prompt is read beside a forward of the others', and another such turn makes the reader's first wish.
    assert ["".join(sorted(forward)) for forward in model.forwards] == ["a", "a", "a", "ab", "b", "b", "c"]
    rest(there)


def test_those_who_read_take_turns_and_hold_nobody_up():
    there, model, read = Loop(100), Model(held=True), []

    def reading(name):
        for _ in range(3):
            read.append((name, len(model.forwards)))
            yield None

    a = Person("a", model, steps=9).join(there)
    model.meet()
    others = [Person(name, model) for name in "bc"]
    for other in others:
        other.growing = reading(other.name)
        other.join(there)
    model.free()
    assert [p.end() for p in (a, *others)] == [None] * 3
    assert [name for name, _ in read] == ["b", "c", "b", "c", "b", "c"]
    done = [forwards for _, forwards in read]
    assert all(later == earlier + 1 for earlier, later in itertools.pairwise(done)), "a stepped between any two pieces"


def test_nobody_is_ahead_of_anybody():
    there, model = Loop(100), Model(held=True)
    people = [Person("a", model, steps=20).join(there)]
    model.meet()
    people += [Person(name, model, steps=20).join(there) for name in "bcdef"]
    model.free()
    assert [p.end() for p in people] == [None] * 6
    last_of_first = max(i for i, forward in enumerate(model.forwards) if "a" in forward)
    for name in "bcdef":
        taken = sum(name in forward for forward in model.forwards[: last_of_first + 1])
        assert taken >= 20 - 1 - 2 * 5, "behind by no more than the two turns that each newcomer's prompt takes"


def test_the_thread_ends_when_nobody_is_left_and_comes_back():
    there, model = Loop(100), Model()
    for name in "ab":
        assert Person(name, model).join(there).end() is None
        rest(there)


def test_an_iterator_that_is_closed_leaves_within_a_step():
    there, model = Loop(100), Model(held=True)
    a, b = Person("a", model, steps=50), Person("b", model, steps=6)
    hearing = there.run(a.growing, 1, 1, 50, (), a.stop)
    b.join(there)
    taken = []

    def listen():
        taken.append(next(hearing))
        hearing.close()

    listener = threading.Thread(target=listen)
    listener.start()
    model.meet()
    while not taken:
        model.let()
        if any("a" in forward for forward in model.forwards):
            listener.join(PATIENCE)
    model.free()
    assert b.end() is None and b.whole
    rest(there)
    assert a.closed and taken == [("said", 0)]
    assert sum("a" in forward for forward in model.forwards) <= 2


# The line -----------------------------------------------------------------------------------------------------------


def test_first_come_first_served_within_the_memory(monkeypatch):
    """c would fit beside a, but b came before it."""
    there, model = Loop(10), Model(held=True)
    a = Person("a", model, steps=3).join(there, size=6)
    model.meet()
    b, c = Person("b", model).join(there, size=6), Person("c", model).join(there, size=3)
    model.free()
    assert [p.end() for p in (a, b, c)] == [None] * 3
    assert all(p.whole for p in (a, b, c))
    assert all("a" not in forward or forward == ("a",) for forward in model.forwards)
    assert any(set(forward) == {"b", "c"} for forward in model.forwards)
    rest(there)


def test_rows_are_bounded_too_but_one_who_is_alone_always_fits():
    there, model = Loop(1000), Model(held=True)
    a = Person("a", model, steps=2).join(there, rows=loop.MOST_ROWS + 5)
    model.meet()
    b = Person("b", model, steps=2).join(there, rows=1)
    model.free()
    assert (a.end(), b.end()) == (None, None)
    assert not any(set(forward) == {"a", "b"} for forward in model.forwards)


def test_those_who_wait_are_told_how_many_are_ahead_and_for_how_long(monkeypatch):
    """On a clock on which every tick takes one second. a, b and c fit one at a time."""
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    there, model = Loop(10), Model(held=True)
    there.step_seconds = 1.0
    a = Person("a", model, steps=5).join(there, size=6)
    model.meet()
    b, c = Person("b", model, steps=3).join(there, size=6), Person("c", model, steps=1).join(there, size=6)
    model.free()
    assert [p.end() for p in (a, b, c)] == [None] * 3
    # While a has 4, 3, 2, 1 steps to go; then b runs, reads one piece, and has 3, 3, 2, 1 to go.
    assert [(w.ahead, w.seconds) for w in b.waiting] == [(1, 4), (1, 3), (1, 2), (1, 1)]
    assert [(w.ahead, w.seconds) for w in c.waiting][:4] == [(2, 7), (2, 6), (2, 5), (2, 4)]
    assert {w.ahead for w in c.waiting[4:]} == {1}
    assert [w.seconds for w in c.waiting[4:]] == sorted((w.seconds for w in c.waiting[4:]), reverse=True)


def test_what_can_never_fit_is_refused_and_holds_nobody_up():
    there, model = Loop(2**30), Model()
    with pytest.raises(UserError, match=r"may need 3\.0 GB .* 1\.0 GB are set aside"):
        Person("a", model).join(there, size=3 * 2**30)
    assert Person("b", model).join(there).end() is None


def test_a_stop_in_the_line_ends_that_one_and_no_forward_knew_it():
    there, model = Loop(10), Model(held=True)
    a = Person("a", model, steps=3).join(there, size=6)
    model.meet()
    b, c = Person("b", model).join(there, size=6), Person("c", model).join(there, size=6)
    b.stop.set()
    model.let()
    assert b.end() is None and b.told == [None]
    model.free()
    assert (a.end(), c.end()) == (None, None) and a.whole and c.whole
    assert not any("b" in forward for forward in model.forwards)


# Misfortunes --------------------------------------------------------------------------------------------------------


def start_together(there: Loop, model: Model, *people: Person) -> None:
    """All of them in the same forwards: each has read when the first is let through."""
    for person in people:
        person.join(there)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("of b alone"), ValueError),
        (MemoryError(), UserError),
        (torch.OutOfMemoryError("CUDA out of memory"), UserError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), UserError),
    ],
)
def test_a_forward_that_fails_for_one_is_taken_for_the_others(error, told):
    there, model = Loop(100), Model()
    model.fails["b"] = error
    a, b, c = (Person(name, model, steps=8) for name in "abc")
    start_together(there, model, a, b, c)
    assert (a.end(), c.end()) == (None, None) and a.whole and c.whole
    assert type(b.end()) is told and b.closed
    if told is UserError:
        assert "not enough memory" in str(b.end())
    else:
        assert b.end() is error
    rest(there)


def test_a_forward_that_fails_only_in_company_is_taken_for_each_alone():
    there, model = Loop(100), Model()
    step = model.step

    def narrow(tokens, groups):
        if len(groups) > 1:
            raise MemoryError
        return step(tokens, groups)

    model.step = narrow
    a, b = Person("a", model, steps=8), Person("b", model, steps=8)
    start_together(there, model, a, b)
    assert (a.end(), b.end()) == (None, None) and a.whole and b.whole


def test_a_comparison_that_breaks_leaves_alone():
    there, model = Loop(100), Model()
    a, b = Person("a", model, steps=8), Person("b", model, steps=8, breaks_at=3)
    start_together(there, model, a, b)
    assert a.end() is None and a.whole
    assert isinstance(b.end(), ZeroDivisionError)
    assert b.told[:-1] == [("said", n) for n in range(3)]
    rest(there)


def test_a_listener_that_fails_ends_its_own_comparison_only(capsys):
    there, model = Loop(100), Model()
    a, b = Person("a", model, steps=8), Person("b", model, steps=8)

    def deaf(told):
        raise ConnectionError("nobody listens")

    there.submit(b.growing, 1, 1, 8, (), b.stop, deaf)
    a.join(there)
    assert a.end() is None and a.whole
    rest(there)
    assert b.closed
    assert "nobody listens" in capsys.readouterr().err


def test_a_model_that_others_do_not_use_fails_for_its_users_only():
    there, good, bad = Loop(100), Model(), Model()
    bad.fails["b"] = ValueError("broken")
    a, b = Person("a", good, steps=6), Person("b", bad, steps=6)
    start_together(there, good, a, b)
    assert a.end() is None and a.whole
    assert isinstance(b.end(), ValueError)


# Changes between two steps ------------------------------------------------------------------------------------------


def test_changes_happen_between_two_steps_and_the_loop_goes_on():
    there, model = Loop(100), Model()
    a = Person("a", model, steps=200).join(there)
    inside = []
    for _ in range(20):
        with there.between():
            before = len(model.forwards)
            inside.append(model.inside.is_set())
            assert len(model.forwards) == before
    assert not any(inside)
    assert a.end() is None and a.whole


def test_a_change_waits_until_it_may_and_an_error_in_it_goes_to_its_caller():
    there, model = Loop(100), Model(held=True)
    seat = (model, "x")
    a = Person("a", model, steps=2).join(there, uses=[seat])
    model.meet()
    assert there.is_used(seat) and not there.is_used((model, "y"))
    changed = SimpleQueue()

    def change():
        try:
            with there.between(lambda: not there.is_used(seat)):
                changed.put(a.done.is_set())
                raise KeyError("the change failed")
        except KeyError as error:
            changed.put(error)

    threading.Thread(target=change).start()
    model.free()
    assert changed.get(timeout=PATIENCE) is True, "it happened while the seat was still in use"
    assert isinstance(changed.get(timeout=PATIENCE), KeyError)
    assert Person("b", model).join(there).end() is None


# Real comparisons ---------------------------------------------------------------------------------------------------


def test_answers_in_company_are_answers_alone(bench):
    """Twelve people with lanes, modes and lengths of their own, who come when they come."""
    chance, people = random.Random(4), []
    choices = [(("first", 1.0),), (("second", 0.5),), (("other", 1.0),), (("first", 0.5), ("second", 1.5))]
    for n in range(12):
        lanes = [bench.lane(), *(bench.lane(*c) for c in chance.sample(choices, chance.randint(0, 3)))]
        mode = chance.choice(("product", "par", "sis", "ratio"))
        people.append((lanes, DecodingSettings(max_new_tokens=chance.randint(1, 24), mode=mode, seed=n)))
    alone = [bench.run(lanes, settings) for lanes, settings in people]
    there, barrier = Loop(2**30), threading.Barrier(4)
    heard: dict[int, list] = {}

    def ask(mine):
        barrier.wait(PATIENCE)
        for n in mine:
            lanes, settings = people[n]
            record, decode = {"seed": settings.seed}, plain_decode(bench.tokenizer)
            growing = engine.compare(bench.proposal, PROMPT, lanes, settings, record, frozenset(), decode, 0)
            events = there.run(growing, 1, 8, settings.max_new_tokens, (), threading.Event())
            heard[n] = [event for event in events if not isinstance(event, Waiting)]

    threads = [threading.Thread(target=ask, args=(range(k, 12, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    rest(there)
    for n, run in enumerate(alone):
        traces = {event.lane: event for event in heard[n] if isinstance(event, Trace)}
        assert {name: trace.text for name, trace in traces.items()} == {
            name: trace.text for name, trace in run.traces.items()
        }
        for name, trace in traces.items():
            assert [step.token for step in trace.steps] == run.tokens(name)
            assert [step.kl for step in trace.steps] == pytest.approx([s.kl for s in run.steps[name]], abs=1e-4)


@pytest.mark.parametrize("events", [0, 1, 5])
def test_a_stop_ends_a_real_comparison_within_a_step(bench, events):
    settings, stop, there = DecodingSettings(max_new_tokens=60), threading.Event(), Loop(2**30)
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    decode = plain_decode(bench.tokenizer)
    growing = engine.compare(bench.proposal, PROMPT, lanes, replace(settings, seed=5), {}, frozenset(), decode, 0, stop)
    heard, left = [], events
    if not left:
        stop.set()
        assert list(there.run(growing, 1, 2, 60, (), stop)) == [], "it was stopped in the line"
        return

    def hear(told):
        nonlocal left
        heard.append(told)
        left -= 1
        if not left:
            stop.set()

    there.submit(growing, 1, 2, 60, (), stop, hear)
    rest(there)
    *steps, first, second, end = heard
    assert len(steps) == events and end is None
    assert {first.done, second.done} == {"stopped"}
    assert [len(trace.steps) for trace in (first, second)] == [events, events]

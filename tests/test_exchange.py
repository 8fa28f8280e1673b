"""What may be seen of two answers while they come, with a loop and a clock that the test moves by hand."""

from types import SimpleNamespace

import pytest

from ram_demo import exchange
from ram_demo.decoding.loop import Waiting
from ram_demo.decoding.trace import Step, Trace
from ram_demo.errors import UserError
from ram_demo.exchange import FASTEST, Exchange, News


class Bench:
    """Stands where the workbench does: keeps whom to tell."""

    def __init__(self):
        self.tell, self.stops = {}, []

    def submit(self, plan, stop, tell):
        self.tell[plan] = tell
        self.stops.append(stop)


class Stage:
    """An exchange, and what its two lanes say and when."""

    def __init__(self, monkeypatch, gone=lambda: False):
        self.now = 0.0
        monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.bench, self.said = Bench(), {"a": [], "b": []}
        self.exchange = Exchange(self.bench, "Why?", {"a": "plan of a", "b": "plan of b"}, gone)

    def tell(self, side, told):
        self.bench.tell[f"plan of {side}"](told)

    def say(self, side, count=1):
        for _ in range(count):
            n = len(self.said[side])
            self.said[side].append(Step("lane", n, n, f"{side}{n} ", 0.0, False, 1, 1.0, 0.0, n, 0.0, 1.0))
            self.tell(side, (self.said[side][-1],))

    def end(self, side, done="eos"):
        text = "".join(step.text for step in self.said[side])
        self.tell(side, Trace("lane", done, text, 1.0, 1.0, {}, tuple(self.said[side])))
        self.tell(side, None)

    def look(self, heard=0, later=0.0) -> News:
        self.now += later
        return self.exchange.news(heard)


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


def counts(news: News) -> tuple[int, int]:
    return len(news.a.split()), len(news.b.split())


def test_the_faster_side_waits(stage):
    stage.say("a", 5)
    assert stage.look(later=10) == News("waiting", None, "", "", 0)
    stage.say("b", 2)
    assert counts(stage.look(later=10)) == (1, 1), "it begins with one"
    assert stage.look(later=10) == News("running", None, "a0 a1 ", "b0 b1 ", 2)
    stage.say("b", 1)
    assert stage.look(heard=2, later=10) == News("running", None, "a2 ", "b2 ", 3)


def test_nothing_comes_quicker_than_a_set_pace(stage):
    for side in "ab":
        stage.say(side, 100)
    assert stage.look().heard == 1
    for n in (1, 2, 3):
        assert stage.look(later=5 / FASTEST).heard == 1 + 5 * n


def test_that_a_side_has_ended_is_not_told_before_both_have(stage):
    stage.say("a", 3)
    stage.end("a")
    stage.say("b", 2)
    stage.look(later=10)
    assert stage.look(later=10) == News("running", None, "a0 a1 ", "b0 b1 ", 2)
    stage.say("b", 4)
    # It goes on after the other's end, in the very same form.
    assert stage.look(heard=2, later=1000) == News("running", None, "a2 ", "b2 b3 b4 b5 ", 6)
    stage.end("b")
    assert stage.look(heard=6) == News("ended", None, "", "", 6)
    assert stage.exchange.whole


def test_whoever_goes_on_alone_goes_no_quicker_than_both_did(stage):
    """Ten tokens of both in ten seconds; then one alone has ninety more at once, and shows one a second."""
    for _ in range(10):
        stage.say("a")
        stage.say("b")
        stage.look(later=1)
    stage.end("a")
    stage.say("b", 90)
    stage.end("b")
    assert stage.look().heard == 10
    assert stage.look(later=5).heard == 15
    assert stage.look(later=60).state == "running"
    assert stage.look(later=26).state == "ended"


def test_sides_swapped_are_told_in_the_same_words(monkeypatch):
    def told(first, second):
        stage = Stage(monkeypatch)
        for n in range(40):
            stage.say(first)
            stage.say(second, 2)
            if n == 20:
                stage.end(second)
        stage.end(first)
        heard = [stage.look(later=0.3) for _ in range(12)]
        return [(n.state, n.ahead, n.heard, {"x": getattr(n, first), "y": getattr(n, second)}) for n in heard]

    straight, swapped = told("a", "b"), told("b", "a")
    rename = str.maketrans("ab", "ba")
    turned = [(*rest, {k: text.translate(rename) for k, text in texts.items()}) for *rest, texts in swapped]
    assert [(*rest, texts) for *rest, texts in straight] == turned


def test_waiting_in_line_is_told_until_something_comes(stage):
    stage.tell("a", Waiting(2, 9.0))
    assert stage.look() == News("waiting", Waiting(2, 9.0), "", "", 0)
    stage.say("a")
    stage.say("b")
    assert stage.look().ahead is None


def test_what_was_stopped_is_shown_at_once_and_is_whole(stage):
    stage.say("a", 30)
    stage.say("b", 31)
    stage.look()
    stage.exchange.stop()
    assert all(stop.is_set() for stop in stage.bench.stops)
    for side in "ab":
        stage.end(side, "stopped")
    news = stage.look()
    assert (news.state, counts(news)) == ("ended", (30, 31))


def test_a_side_that_fails_ends_both_and_nothing_is_whole(stage):
    stage.say("a", 3)
    error = UserError("no")
    stage.tell("b", error)
    assert all(stop.is_set() for stop in stage.bench.stops)
    stage.end("a", "stopped")
    assert stage.look().state == "failed" and stage.exchange.error is error
    assert not stage.exchange.whole


def test_stopped_before_a_word_is_not_whole(stage):
    stage.exchange.stop()
    stage.end("a", "stopped")
    stage.tell("b", None)
    assert stage.look().state == "failed" and not stage.exchange.whole


def test_a_page_that_is_gone_ends_it(monkeypatch):
    gone = []
    stage = Stage(monkeypatch, gone=lambda: bool(gone))
    stage.say("a")
    assert not any(stop.is_set() for stop in stage.bench.stops)
    gone.append(True)
    stage.say("b")
    assert all(stop.is_set() for stop in stage.bench.stops)


def test_a_second_side_that_is_refused_takes_the_first_with_it():
    bench = Bench()

    def refuse(plan, stop, tell):
        if bench.stops:
            raise UserError("no room")
        bench.stops.append(stop)

    bench.submit = refuse
    with pytest.raises(UserError, match="no room"):
        Exchange(bench, "Why?", {"a": 1, "b": 2}, lambda: False)
    assert bench.stops[0].is_set()

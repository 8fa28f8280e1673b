"""Runs with a tiny model that steps only when it is let: what readers hear, stopping, queueing, giving up, the vote."""

import json
import random
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ram_demo import runs as runs_module
from ram_demo.decoding import loop
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.record import to_record
from ram_demo.errors import StorageError, UserError
from ram_demo.request import Choice, Request
from ram_demo.runs import Runs
from ram_demo.workbench import Workbench
from tests import stores, tiny, tiny_workbench
from tests.tiny_workbench import PATIENCE, Opened, Paced

one_thread = tiny_workbench.one_thread
store = stores.store
LANES = ((Choice("a", 1.0),), (Choice("b", 1.0),))
ASKED = Request("the tin", LANES, settings=DecodingSettings(max_new_tokens=6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    base = tiny.save(folder / "base", tiny.model())
    for seed, name in enumerate("ab"):
        tiny.adapter(folder / "data" / "aligners" / name, base, seed=seed)
    return folder


@pytest.fixture(scope="module")
def proposal(folder):
    return tiny_workbench.load(folder / "base")


@pytest.fixture
def paced(proposal):
    """The proposal's model, whose forwards wait to be let through."""
    model = Paced(proposal.model)
    yield model
    model.release()


@pytest.fixture
def bench(folder, proposal, paced):
    return Workbench(tiny_workbench.settings(folder), replace(proposal, model=paced))


@pytest.fixture
def runs(bench, store):
    return Runs(Opened(bench), store)


@pytest.fixture
def clock(monkeypatch):
    """The clock that runs read, set by hand."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(runs_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def join(run) -> None:
    """Wait until nothing of a run is going on, without asking it for news."""
    with run._changed:
        assert run._changed.wait_for(lambda: run.ended, PATIENCE), "the run does not end"


def hear(run, heard: int = 0) -> SimpleNamespace:
    """Everything of a run from `heard` on, read until it has ended."""
    all_of_it = SimpleNamespace(steps=[], traces=[], notes=[], states=[])
    while True:
        news = run.news(heard, PATIENCE)
        all_of_it.steps += news.steps
        all_of_it.traces += news.traces
        all_of_it.states.append(news.state)
        all_of_it.notes.append(news.note)
        heard = news.heard
        if news.state in ("ended", "failed"):
            join(run)
            return all_of_it


def until(run, state: str, note: str = "") -> None:
    """Read a run until it says that it is in `state`."""
    heard = 0
    # A change of state alone may have been missed, so the wait is short and repeated.
    while not ((news := run.news(heard, 0.05)).state == state and note in news.note):
        assert news.state not in ("ended", "failed"), f"it went on to {news}"
        heard = news.heard


def nobody_is_left(bench) -> bool:
    """Has the loop let go of everybody?"""
    for thread in threading.enumerate():
        if thread.name == "decoding":
            thread.join(PATIENCE)
    return not bench.loop.active and not bench.loop.line


def refused(runs, run, session="me", pair=("base", "a"), choice="a") -> str:
    """The sentence with which a vote is refused; none is counted, and no battle is kept for it."""
    before, battles = runs.store.count(), {} if isinstance(run, str) else dict(run.battles)
    with pytest.raises(UserError) as caught:
        runs.vote(run if isinstance(run, str) else run.id, session, pair, choice)
    assert runs.store.count() == before
    assert isinstance(run, str) or run.battles == battles
    return str(caught.value)


# Running and reading ------------------------------------------------------------------------------------------------


def test_a_run_ends_with_every_lanes_trace(runs, paced, bench):
    paced.release()
    run = runs.start(ASKED, "me")
    heard = hear(run)
    assert heard.states[-1] == "ended"
    assert [trace.lane for trace in heard.traces] == ["base", "a", "b"]
    assert run.traces == {trace.lane: trace for trace in heard.traces}
    for trace in heard.traces:
        assert (trace.done, len(trace.steps)) == ("length", 6)
        assert [step for step in heard.steps if step.lane == trace.lane] == list(trace.steps)
        assert "".join(step.text for step in trace.steps) == trace.text
    assert runs.find(run.id) is run
    assert nobody_is_left(bench)


@pytest.mark.parametrize("seed", range(4))
def test_news_is_whole_whatever_the_pattern_of_reading(runs, paced, seed):
    dice = random.Random(seed)
    run = runs.start(ASKED, "me")
    readers = [SimpleNamespace(heard=0, steps=[], traces=[]) for _ in range(3)]

    def read(reader, wait=0.0):
        news = run.news(reader.heard, wait)
        again = run.news(reader.heard, 0.0)
        assert again.steps[: len(news.steps)] == news.steps, "asking twice from one place gives the same"
        reader.steps += news.steps
        reader.traces += news.traces
        reader.heard = news.heard
        return news.state

    for forward in range(6):
        paced.let()
        if forward < 5 and dice.random() < 0.5:
            # The model stands before its next forward, so the steps of this one have been told.
            paced.wait()
            paced.entered.release()
        for reader in readers:
            if dice.random() < 0.5:
                read(reader)
    join(run)
    for reader in readers:
        while read(reader, PATIENCE) != "ended" or reader.heard < run.news(0, 0).heard:
            pass
        assert [step for t in reader.traces for step in t.steps] == sorted(
            reader.steps, key=lambda step: ["base", "a", "b"].index(step.lane)
        )
        assert [step.index for step in reader.steps] == sorted(step.index for step in reader.steps)
        assert len(reader.steps) == 3 * 6 and len(reader.traces) == 3


def test_a_reader_waits_for_news_and_not_for_the_end(runs, paced):
    run = runs.start(ASKED, "me")
    paced.let()
    news = run.news(0, PATIENCE)
    while not news.steps:
        news = run.news(news.heard, PATIENCE)
    assert [(step.lane, step.index) for step in news.steps] == [("base", 0), ("a", 0), ("b", 0)]
    assert news.state == "running" and news.traces == ()
    assert run.news(news.heard, 0.0).steps == ()
    assert not run.ended


def test_stop_takes_effect_within_a_step_and_frees_the_loop(runs, paced, bench):
    run = runs.start(ASKED, "me")
    paced.let(2)
    paced.wait()  # it stands in its third forward
    runs.stop("someone else")
    runs.stop("me")
    paced.release()
    heard = hear(run)
    assert heard.states[-1] == "ended"
    assert {trace.lane: (trace.done, len(trace.steps)) for trace in heard.traces} == dict.fromkeys(
        ("base", "a", "b"), ("stopped", 2)
    )
    assert nobody_is_left(bench)


def test_a_run_stopped_before_its_first_token_tells_no_nonsense(runs, paced):
    run = runs.start(ASKED, "me")
    paced.wait()
    run.stop()
    paced.release()
    for trace in hear(run).traces:
        assert (trace.done, trace.text, trace.steps) == ("stopped", "", ())
        assert trace.first_token_ms >= 0
        assert (trace.tokens_per_s, trace.gated_share, trace.mean_kl) == (0, 0, 0)


def test_a_second_run_of_a_session_stops_its_first_and_no_one_elses(runs, paced):
    mine = runs.start(ASKED, "me")
    paced.let()
    paced.wait()
    other = runs.start(ASKED, "other")
    again = runs.start(ASKED, "me")
    paced.release()
    assert {trace.done for trace in hear(mine).traces} == {"stopped"}
    assert {trace.done for trace in hear(other).traces} == {"length"}
    assert {trace.done for trace in hear(again).traces} == {"length"}


def test_the_oldest_ended_runs_are_forgotten_and_those_going_are_not(runs, paced, monkeypatch):
    monkeypatch.setattr(runs_module, "KEPT", 2)
    going = runs.start(ASKED, "me")
    paced.let()
    waiting = [runs.start(ASKED, f"other {i}") for i in range(3)]
    assert runs.find(going.id) is going, "a page still reads it"
    runs.stop("me")
    paced.release()
    assert {trace.done for trace in hear(going).traces} == {"stopped"}
    for run in waiting:
        hear(run)
    last = runs.start(ASKED, "last")
    hear(last)
    assert runs.find(last.id) is last
    with pytest.raises(UserError, match="no longer here"):
        runs.find(going.id)


# Giving up ----------------------------------------------------------------------------------------------------------


def test_a_run_that_nobody_asks_about_is_given_up(runs, paced, bench, clock):
    run = runs.start(ASKED, "me")
    paced.let()
    paced.wait()
    clock.now += runs_module.UNHEARD_SECONDS + 1
    paced.release()
    join(run)
    assert {(trace.done, len(trace.steps)) for trace in run.traces.values()} == {("stopped", 2)}
    assert nobody_is_left(bench)


def test_a_run_that_is_asked_about_goes_on_for_as_long_as_it_takes(runs, paced, clock):
    run = runs.start(ASKED, "me")
    for _ in range(6):
        paced.let()
        run.news(0, 0.0)
        clock.now += runs_module.UNHEARD_SECONDS - 1
    assert {trace.done for trace in hear(run).traces} == {"length"}


# Failing ------------------------------------------------------------------------------------------------------------


def test_a_defect_while_decoding_fails_that_run_alone(runs, bench, proposal, paced, caplog, monkeypatch):
    def broken(tokens, rows):
        raise RuntimeError("/secret/path is None")

    monkeypatch.setattr(paced, "step", broken)
    paced.free = True
    run = runs.start(ASKED, "me")
    heard = hear(run)
    assert heard.states[-1] == "failed"
    assert "secret" not in heard.notes[-1] and heard.notes[-1].endswith(".")
    assert "/secret/path" in caplog.text, "the log has it"
    assert nobody_is_left(bench)
    assert refused(runs, run)
    monkeypatch.undo()
    after = hear(runs.start(ASKED, "me"))
    assert after.states[-1] == "ended" and {trace.done for trace in after.traces} == {"length"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (replace(ASKED, lanes=((Choice("absent"),),)), "absent"),
        (replace(ASKED, prompt="the " * 200), "too long"),
        (replace(ASKED, settings=DecodingSettings(max_new_tokens=120)), "room"),
    ],
    ids=["aligner", "prompt", "length"],
)
def test_what_cannot_be_asked_fails_with_its_own_sentence(runs, bench, asked, words):
    heard = hear(runs.start(asked, "me"))
    assert heard.states[-1] == "failed" and words in heard.notes[-1]
    assert heard.steps == [] and nobody_is_left(bench)


def test_a_proposal_that_cannot_be_opened_fails_every_run_with_the_reason(store):
    def wait(progress, given_up):
        progress("Looking", 0.1)
        raise UserError("No model 'x' here.")

    runs = Runs(SimpleNamespace(wait=wait), store)
    heard = hear(runs.start(ASKED, "me"))
    assert (heard.states[-1], heard.notes[-1]) == ("failed", "No model 'x' here.")


def test_a_run_given_up_while_the_proposal_is_opened_ends_with_nothing(store):
    def wait(progress, given_up):
        assert not given_up()
        progress("Unpacking", 0.5)
        assert asked.wait(PATIENCE)
        return None if given_up() else pytest.fail("stop was not seen")

    asked = threading.Event()
    runs = Runs(SimpleNamespace(wait=wait), store)
    run = runs.start(ASKED, "me")
    until(run, "opening", "Unpacking")
    runs.stop("me")
    asked.set()
    heard = hear(run)
    assert heard.states[-1] == "ended" and heard.traces == []
    assert refused(runs, run)


# Several at once ----------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch):
    """A loop with room for one comparison at a time, which tells those who wait at every step."""
    monkeypatch.setattr(loop, "MOST_ROWS", 1)
    monkeypatch.setattr(loop, "TELL_SECONDS", -1)


def line_up(runs, bench, paced, *sessions):
    """Runs that stand in line behind the one that is in a forward now, and have been told so."""
    paced.wait()
    queued = []
    for session in sessions:
        queued.append(runs.start(ASKED, session))
        with bench.loop.changed:
            assert bench.loop.changed.wait_for(lambda: len(bench.loop.line) == len(queued), PATIENCE)
    paced.allowed.release()
    paced.wait()
    paced.entered.release()
    return queued


def test_those_who_wait_are_told_their_place_and_all_finish(runs, bench, paced, narrow):
    first = runs.start(ASKED, "one")
    paced.let()
    second, third = line_up(runs, bench, paced, "two", "three")
    until(second, "waiting", "One comparison is ahead")
    until(third, "waiting", "2 comparisons are ahead")
    paced.release()
    told = [hear(run) for run in (first, second, third)]
    for heard in told:
        assert heard.states[-1] == "ended"
        assert [trace.done for trace in heard.traces] == ["length"] * 3
    texts = [{trace.lane: trace.text for trace in heard.traces} for heard in told]
    assert texts[0] == texts[1] == texts[2], "one seed, one answer, whoever else is running"


def test_stop_while_waiting_ends_that_one_only(runs, bench, paced, narrow):
    first = runs.start(ASKED, "one")
    paced.let()
    (second,) = line_up(runs, bench, paced, "two")
    until(second, "waiting")
    runs.stop("two")
    paced.release()
    heard = hear(second)
    assert heard.states[-1] == "ended" and heard.traces == []
    assert {trace.done for trace in hear(first).traces} == {"length"}


def test_two_people_at_once_share_the_forwards(runs, bench, paced):
    """Both advance with each forward that is let through, and both get what they get alone."""
    first = runs.start(ASKED, "one")
    paced.let()
    (second,) = line_up(runs, bench, paced, "two")
    paced.release()
    told = [hear(run) for run in (first, second)]
    one, two = ([trace.text for trace in heard.traces] for heard in told)
    assert one == two
    assert "waiting" not in told[1].states


def test_an_unheard_run_gives_up_its_place_in_the_line(runs, paced, bench, clock, narrow):
    first = runs.start(ASKED, "me")
    paced.let()
    (queued,) = line_up(runs, bench, paced, "gone")
    until(queued, "waiting", "it begins within about ")
    clock.now += runs_module.UNHEARD_SECONDS + 1
    first.news(0, 0.0)  # the first is still heard
    paced.release()
    join(queued)
    assert queued.ended and queued.traces == {}
    assert {trace.done for trace in hear(first).traces} == {"length"}
    assert nobody_is_left(bench)


# The vote -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(runs, paced):
    paced.free = True
    run = runs.start(ASKED, "me")
    hear(run)
    return run


def test_a_vote_keeps_all_that_replays_the_battle(runs, ended, bench):
    assert runs.vote(ended.id, "me", ("base", "b"), "b") == 1
    (row,) = runs.store.rows()
    battle = row.battle
    assert (row.choice, battle.prompt, battle.session, battle.seed, battle.mode) == ("b", "the tin", "me", 7, "product")
    assert (battle.proposal, battle.a.lane, battle.b.lane) == ("base", "base", "b")
    assert battle.proposal_revision == bench.proposal.source.revision
    assert (battle.a.aligners, battle.b.aligners) == ("", "b:1")
    assert len(battle.b.aligner_revision) == 12 and battle.a.aligner_revision == ""
    for response in (battle.a, battle.b):
        trace = ended.traces[response.lane]
        assert (response.text, response.done, response.tokens) == (trace.text, "length", 6)
        assert response.trace == json.loads(json.dumps(to_record(trace)))
        assert response.trace["steps"]["token"] == [step.token for step in trace.steps]
    assert battle.a.mean_kl is None and battle.a.gated_share is None
    assert battle.b.mean_kl == pytest.approx(sum(step.kl for step in ended.traces["b"].steps) / 6)
    # The settings alone lead to the same answer again.
    kept = battle.settings
    lanes = tuple(tuple(Choice(a["name"], a["beta"]) for a in lane) for lane in kept["lanes"].values() if lane)
    names = DecodingSettings.__dataclass_fields__
    again = Request(battle.prompt, lanes, kept["tau"], DecodingSettings(**{name: kept[name] for name in names}))
    assert {trace.lane: trace.text for trace in hear(runs.start(again, "replay")).traces} == {
        lane: trace.text for lane, trace in ended.traces.items()
    }


def test_each_pair_is_voted_on_once(runs, ended):
    assert runs.vote(ended.id, "me", ("base", "a"), "a") == 1
    for choice in ("a", "b", "tie", "both_bad"):
        assert "once" in refused(runs, ended, choice=choice)
    assert runs.vote(ended.id, "me", ("base", "b"), "tie") == 2
    assert runs.vote(ended.id, "me", ("a", "b"), "both_bad") == 3
    assert [row.choice for row in runs.store.rows()] == ["a", "tie", "both_bad"]


def test_another_sessions_vote_is_refused_and_takes_nothing_from_ones_own(runs, ended):
    assert refused(runs, ended, session="other")
    assert refused(runs, ended, session="")
    assert runs.vote(ended.id, "me", ("base", "a"), "a") == 1


def test_a_vote_before_the_end_is_refused(runs, paced):
    run = runs.start(ASKED, "me")
    assert refused(runs, run)
    paced.let(3)
    paced.wait()
    assert "ended" in refused(runs, run)
    paced.release()
    hear(run)
    assert runs.vote(run.id, "me", ("base", "a"), "a") == 1


def test_a_vote_waits_for_every_lane(runs, ended, bench, monkeypatch):
    go_on = threading.Event()

    def lane_by_lane(plan, stop, tell):
        tell(ended.traces["base"])
        tell(ended.traces["a"])
        assert go_on.wait(PATIENCE)
        tell(ended.traces["b"])
        tell(None)

    monkeypatch.setattr(bench, "submit", lane_by_lane)
    run = runs.start(ASKED, "me")
    while len(run.news(0, 0.05).traces) < 2:
        pass
    assert "ended" in refused(runs, run)
    go_on.set()
    hear(run)
    assert runs.vote(run.id, "me", ("base", "a"), "a") == 1


@pytest.mark.parametrize(
    "pair", [("a", "base"), ("base", "base"), ("base", "absent"), ("absent", "a"), ("", ""), ("b", "a")]
)
def test_a_pair_that_was_not_shown_so_is_refused(runs, ended, pair):
    assert refused(runs, ended, pair=pair)


@pytest.mark.parametrize("choice", ["", "A", "c", "both bad", "a; drop table vote"])
def test_a_choice_that_does_not_exist_is_refused(runs, ended, choice):
    assert refused(runs, ended, choice=choice)
    assert runs.vote(ended.id, "me", ("base", "a"), "a") == 1


def test_a_run_that_is_not_here_cannot_be_voted_on(runs):
    assert "no longer here" in refused(runs, "0" * 32)


def test_a_stopped_comparison_can_be_voted_on(runs, paced):
    run = runs.start(ASKED, "me")
    paced.let(2)
    paced.wait()
    run.stop()
    paced.release()
    hear(run)
    assert runs.vote(run.id, "me", ("base", "a"), "tie") == 1
    (row,) = runs.store.rows()
    assert (row.battle.a.done, row.battle.b.done, row.battle.a.tokens) == ("stopped", "stopped", 2)


@pytest.mark.parametrize("fails", ["record_battle", "vote"])
def test_a_vote_that_could_not_be_saved_can_be_given_again(runs, ended, store, fails):
    with pytest.MonkeyPatch.context() as patch:

        def full(*_arguments):
            raise StorageError("The vote was NOT saved: the disk is full.")

        patch.setattr(store, fails, full)
        with pytest.raises(StorageError, match="NOT saved"):
            runs.vote(ended.id, "me", ("base", "a"), "a")
    assert store.count() == 0
    assert runs.vote(ended.id, "me", ("base", "a"), "a") == 1
    assert len(list(store.rows())) == 1
    assert refused(runs, ended)


def test_two_votes_at_the_very_same_time_count_once(runs, ended):
    together, outcomes = threading.Barrier(4), []

    def vote(choice):
        together.wait(PATIENCE)
        try:
            runs.vote(ended.id, "me", ("base", "a"), choice)
            outcomes.append("counted")
        except UserError:
            outcomes.append("refused")

    threads = [threading.Thread(target=vote, args=(choice,)) for choice in ("a", "b", "tie", "both_bad")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(outcomes) == ["counted", "refused", "refused", "refused"]
    assert runs.store.count() == 1

"""The workbench: turns, what a plan says and refuses, taking aligners in and out, and opening in the background."""

import json
import threading
from dataclasses import replace

import pytest

from ram_demo import workbench as workbench_module
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import Step, Trace
from ram_demo.errors import UserError
from ram_demo.models.proposal import encode_conversation
from ram_demo.request import Choice, Request
from ram_demo.workbench import Opening, Workbench, open_workbench
from tests import tiny, tiny_workbench
from tests.tiny_workbench import PATIENCE

one_thread = tiny_workbench.one_thread
SHORT = DecodingSettings(max_new_tokens=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A proposal, adapters on it, and one on another base that reads less."""
    folder = tmp_path_factory.mktemp("made")
    tiny.save(folder / "base", tiny.model())
    tiny.save(folder / "small", tiny.model(seed=3, max_position_embeddings=40))
    tiny.adapter(folder / "own" / "a", folder / "base", seed=1)
    tiny.adapter(folder / "own" / "b", folder / "base", seed=2)
    tiny.adapter(folder / "own" / "short", folder / "small", seed=3)
    (folder / "own" / "a" / "aligner.json").write_text(json.dumps({"beta": 0.5, "tau": 0.25}))
    return folder


@pytest.fixture(scope="module")
def proposal(made):
    return tiny_workbench.load(made / "base")


@pytest.fixture
def bench(made, proposal, tmp_path):
    settings = tiny_workbench.settings(tmp_path)
    settings.data.mkdir()
    settings.own_aligners.symlink_to(made / "own")
    return Workbench(settings, proposal)


def lanes(*names: str) -> tuple:
    return tuple(tuple(Choice(name) for name in lane.split("+")) for lane in names)


# Plans --------------------------------------------------------------------------------------------------------------


def test_a_plan_records_what_replays_it(bench, proposal):
    asked = Request("the tin", (*lanes("a", "b"), (Choice("a", 2.0), Choice("b"))), settings=SHORT)
    plan = bench.plan(asked)
    record = json.loads(json.dumps(plan.record))
    assert list(record["lanes"]) == ["base", "a", "b", "a+b"]
    assert record["lanes"]["base"] == []
    told = {lane: [(a["name"], a["beta"], a["tau"]) for a in aligners] for lane, aligners in record["lanes"].items()}
    # The card's own strength and threshold stand where none was asked for.
    assert told["a"] == [("a", 0.5, 0.25)]
    assert told["b"] == [("b", 1.0, None)]
    assert told["a+b"] == [("a", 2.0, 0.25), ("b", 1.0, None)]
    assert {name: record[name] for name in ("mode", "seed", "max_new_tokens", "top_p", "temperature")} == {
        "mode": "product", "seed": 7, "max_new_tokens": 3, "top_p": 0.95, "temperature": 0.7,
    }  # fmt: skip
    assert (record["proposal"], record["tau"]) == ("base", "auto")
    assert list(plan.prompt_ids) == proposal.encode_prompt("the tin")
    assert all(a["revision"] for aligners in record["lanes"].values() for a in aligners)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [("auto", [0.25, None]), ("off", [None, None]), (0.0, [0.0, 0.0]), (0.7, [0.7, 0.7])],
)
def test_the_gate_is_the_cards_or_none_or_the_one_asked_for(bench, tau, expected):
    plan = bench.plan(Request("the tin", lanes("a+b"), tau=tau, settings=SHORT))
    assert [weigher.tau for weigher in plan.lanes[1].weighers] == expected


def test_a_prompt_is_too_long_by_so_many_tokens(bench, proposal):
    context = 128
    template = len(proposal.encode_prompt("Q")) - 1

    def plan(tokens, answer):
        # In this vocabulary a capital Q is one token and never merges.
        return bench.plan(Request("Q" * tokens, settings=DecodingSettings(max_new_tokens=answer)))

    most = context - template
    assert len(plan(most - 1, 1).prompt_ids) == context - 1
    with pytest.raises(UserError, match=r"\b1 tokens? too long"):
        plan(most, 1)
    with pytest.raises(UserError, match=r"\b5 tokens too long"):
        plan(most + 4, 1)
    assert plan(most - 9, 9)
    with pytest.raises(UserError, match=r"room for 9 tokens, 2 fewer"):
        plan(most - 9, 11)


def test_the_longest_plan_that_is_allowed_can_be_run(bench, proposal):
    room = 128 - len(proposal.encode_prompt("the tin"))
    plan = bench.plan(Request("the tin", lanes("a"), settings=DecodingSettings(max_new_tokens=room, top_k=1)))
    traces = [event for event in bench.run(plan, threading.Event()) if isinstance(event, Trace)]
    assert {trace.lane for trace in traces} == {"base", "a"}


def test_an_aligner_that_reads_less_is_named(bench):
    with pytest.raises(UserError, match=r"short reads at most 40 tokens"):
        bench.plan(Request("the tin", lanes("short"), settings=DecodingSettings(max_new_tokens=60)))
    # Where the strength is 0, or the mode asks for Q0, the same holds.
    with pytest.raises(UserError, match=r"short reads at most 40 tokens"):
        bench.plan(Request("the tin", lanes("short"), settings=DecodingSettings(mode="ratio", max_new_tokens=60)))


def test_a_wrong_name_leaves_what_is_loaded_as_it_was(bench):
    bench.plan(Request("the tin", lanes("a"), settings=SHORT))
    with pytest.raises(UserError, match="'absent'"):
        bench.plan(Request("the tin", lanes("absent"), settings=SHORT))
    assert list(bench.aligners.loaded) == ["a"]
    bench.unload("a")
    assert bench.aligners.loaded == {}


def test_steps_come_before_the_trace_and_a_stop_before_all(bench):
    plan = bench.plan(Request("the tin", lanes("a"), settings=SHORT))
    events = list(bench.run(plan, threading.Event()))
    steps = [step for event in events if isinstance(event, tuple) for step in event]
    assert {step.lane for step in steps} == {"base", "a"} and all(isinstance(step, Step) for step in steps)
    assert isinstance(events[0], tuple) and isinstance(events[-1], Trace)
    stop = threading.Event()
    stop.set()
    stopped = list(bench.run(plan, stop))
    assert stopped == [], "stopped in line, it has nothing to tell"
    assert all(trace.first_token_ms >= 0 for trace in stopped)


def test_an_import_is_tried_out_and_then_there(bench, made, tmp_path):
    settings = replace(bench.settings, data=tmp_path / "empty")
    fresh = Workbench(settings, bench.proposal)
    assert fresh.import_aligner(made / "own" / "a") == "a"
    assert fresh.aligners.loaded == {}, "trying out is not loading"
    assert fresh.registry.find("a").folder == settings.own_aligners / "a"
    assert fresh.plan(Request("the tin", lanes("a"), settings=SHORT)).record["lanes"]["a"][0]["beta"] == 0.5
    with pytest.raises(UserError, match="a already"):
        fresh.import_aligner(made / "own" / "a")
    with pytest.raises(UserError, match="already"):
        tiny.adapter(tmp_path / "concise", made / "base")
        fresh.import_aligner(tmp_path / "concise")
    assert {path.name for path in settings.own_aligners.iterdir()} == {"a"}


# Opening ------------------------------------------------------------------------------------------------------------


def test_the_named_proposal_is_opened(made, tmp_path):
    told = []
    settings = replace(tiny_workbench.settings(tmp_path), model=str(made / "base"))
    opened = open_workbench(settings, lambda what, share: told.append((what, share)))
    assert (opened.proposal.source.name, opened.proposal.source.origin) == ("base", "path")
    assert any("base" in what for what, _ in told) and all(0 <= share <= 1 for _, share in told)
    assert not settings.data.exists() and not settings.cache.exists(), "nothing is written for a model given by path"


def test_opening_happens_aside_and_is_waited_for(monkeypatch, tmp_path):
    go, told, opened = threading.Event(), [], object()

    def slow(settings, progress):
        progress("Unpacking", 0.4)
        assert go.wait(PATIENCE)
        return opened

    monkeypatch.setattr(workbench_module, "open_workbench", slow)
    opening = Opening(tiny_workbench.settings(tmp_path))

    def progress(what, share):
        told.append((what, share))
        if ("Unpacking", 0.4) in told:
            go.set()

    assert not opening.done
    assert opening.wait(given_up=lambda: True) is None, "who gives up does not wait"
    assert opening.wait(progress) is opened
    assert opening.done and opening.wait() is opened
    assert ("Unpacking", 0.4) in told


def test_what_stops_an_opening_is_told_to_everyone_who_waits(tmp_path):
    opening = Opening(replace(tiny_workbench.settings(tmp_path), model="/no/such/folder"))
    for _ in range(2):
        with pytest.raises(UserError, match="/no/such/folder"):
            opening.wait()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_opening_is_one_sentence_and_in_the_log(monkeypatch, tmp_path):
    def broken(settings, progress):
        raise RuntimeError("/secret/path is None")

    monkeypatch.setattr(workbench_module, "open_workbench", broken)
    with pytest.raises(UserError) as caught:
        Opening(tiny_workbench.settings(tmp_path)).wait()
    assert "secret" not in str(caught.value)


# Modes --------------------------------------------------------------------------------------------------------------


def said(bench: Workbench, names: tuple[str, ...], mode: str) -> tuple[dict, dict]:
    """The text of each lane, and the mode that the record says each ran in."""
    settings = DecodingSettings(mode=mode, max_new_tokens=12, temperature=0.9)
    plan = bench.plan(Request("Hello", lanes(*names), settings=settings))
    events = bench.run(plan, threading.Event())
    return {e.lane: e.text for e in events if isinstance(e, Trace)}, plan.record["modes"]


def test_each_lane_runs_in_the_mode_its_own_card_recommends(bench, tmp_path, made):
    bench.settings.own_aligners.unlink()
    for name, mode in (("p", "par"), ("r", "ratio")):
        tiny.adapter(bench.settings.own_aligners / name, made / "base", seed=len(name) + ord(name))
        (bench.settings.own_aligners / name / "aligner.json").write_text(json.dumps({"beta": 2.0, "mode": mode}))
    own, modes = said(bench, ("p", "r", "p+r"), "auto")
    assert modes == {"base": "product", "p": "par", "r": "ratio", "p+r": "product"}
    assert own["p"] == said(bench, ("p",), "par")[0]["p"]
    assert own["r"] == said(bench, ("r",), "ratio")[0]["r"]
    assert own["p+r"] == said(bench, ("p+r",), "product")[0]["p+r"]
    assert own["p"] != said(bench, ("p",), "product")[0]["p"]


def test_one_lane_alone_goes_on_from_what_was_said(bench, proposal):
    said = (("user", "the tin"), ("assistant", "the inn"))
    for choices, name in (((), "base"), ((Choice("a"),), "a")):
        plan = bench.plan(Request("and?", (choices,), settings=SHORT, with_base=False, history=said))
        assert [lane.name for lane in plan.lanes] == list(plan.record["lanes"]) == [name]
        assert list(plan.prompt_ids) == encode_conversation(proposal.tokenizer, [*said, ("user", "and?")])
    assert plan.lanes[0].weighers[0].beta == 0.5

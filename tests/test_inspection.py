"""The Inspector's service on a tiny model: what opens, branches against forced generation, replays, links, mistakes."""

import base64
import copy
import io
import json
import threading

import pytest

from ram_demo import views
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.record import from_record, to_record
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from ram_demo.inspection import Inspector
from ram_demo.request import Choice, Request
from ram_demo.runs import Runs
from ram_demo.votes import export
from ram_demo.workbench import Workbench
from tests import stores, tiny, tiny_workbench, traces
from tests.tiny_workbench import PATIENCE, Opened

one_thread = tiny_workbench.one_thread
store = stores.store
SETTINGS = DecodingSettings(max_new_tokens=12, seed=3)
ASKED = Request("the tin", ((Choice("a", 1.0),), (Choice("a", 0.5), Choice("b", 2.0))), settings=SETTINGS)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspection")
    base = tiny.save(folder / "base", tiny.model(spread=0.5, max_position_embeddings=256))
    for seed, name in enumerate("ab", 1):
        tiny.adapter(folder / "data" / "aligners" / name, base, seed, 0.15)
    return Workbench(tiny_workbench.settings(folder), tiny_workbench.load(base))


@pytest.fixture
def runs(bench, store):
    yield Runs(Opened(bench), store)
    for thread in threading.enumerate():  # one that still decodes when Python ends takes it down
        if thread.name == "decoding":
            thread.join(PATIENCE)


@pytest.fixture
def inspector(runs):
    return Inspector(runs)


def ended(run):
    heard = 0
    while not run.ended:
        heard = run.news(heard, PATIENCE).heard
    assert run.news(0, 0).state == "ended", run.news(0, 0).note
    return run


@pytest.fixture
def view(inspector, runs):
    return inspector.of_run(ended(runs.start(ASKED, "me")).id)


def straight(bench, request: Request) -> dict[str, Trace]:
    told = bench.run(bench.plan(request), threading.Event())
    return {event.lane: event for event in told if isinstance(event, Trace)}


def refused(call, *asked) -> str:
    with pytest.raises(UserError) as caught:
        call(*asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lane(view: dict, name: str) -> dict:
    return next(lane for lane in view["turns"][0]["lanes"] if lane["name"] == name)


def branch_from(view: dict, name: str, at: int, token: int, **changes) -> dict:
    """What the page asks where a person forces a token."""
    parent = lane(view, name)["trace"]
    forced = [*parent["steps"]["token"][:at], token]
    asked = {"prompt": view["turns"][0]["prompt"], "history": [], "settings": parent["settings"], "lane": name}
    return {**asked, "forced": forced, **changes}


def test_a_run_is_opened_whole(view, runs):
    assert [lane["name"] for lane in view["turns"][0]["lanes"]] == ["base", "a", "a+b"]
    assert view["turns"][0]["prompt"] == view["title"] == "the tin"
    for one in view["turns"][0]["lanes"]:
        trace = from_record(one["trace"])
        assert len(trace.steps) == one["trace"]["tokens"] > 0
        assert one["aligned"] == (one["name"] != "base")
    json.dumps(view, allow_nan=False)


def test_a_run_that_is_not_here_or_said_nothing_is_refused(inspector, runs):
    assert "no longer here" in refused(inspector.of_run, "0" * 32)


@pytest.mark.parametrize("name", ["base", "a", "a+b"])
def test_a_branch_is_generating_with_that_forced_prefix(inspector, bench, view, name):
    run = ended(inspector.begin(branch_from(view, name, 4, 99), "me"))
    aligned = "a" if name == "base" else name  # beside the base's lane stands the first aligned one
    assert set(run.traces) == {"base", aligned}
    choices = ASKED.lanes[0 if aligned == "a" else 1]
    forced = (*lane(view, name)["trace"]["steps"]["token"][:4], 99)
    settings = DecodingSettings(max_new_tokens=len(forced) + 64, seed=3)
    want = straight(bench, Request("the tin", (choices,), settings=settings, forced=forced))
    for which, trace in run.traces.items():
        assert [s.token for s in trace.steps] == [s.token for s in want[which].steps]
        assert trace.settings["forced"] == list(forced)
        assert trace.steps[0].index == 5


def test_going_on_from_a_recut_takes_its_settings(inspector, view):
    asked = branch_from(view, "a+b", 3, 77, mode="ratio", strengths={"a": 0, "b": 0.3}, taus={"b": 0.25})
    run = ended(inspector.begin(asked, "me"))
    record = run.traces["a+b"].settings
    told = [(a["name"], a["beta"], a["tau"]) for a in record["lanes"]["a+b"]]
    assert told == [("a", 0, None), ("b", 0.3, 0.25)]
    assert record["modes"]["a+b"] == "ratio"


def test_a_branch_is_told_in_parts_and_voted_on_once(inspector, runs, view):
    run = ended(inspector.begin(branch_from(view, "a", 2, 50), "me"))
    told = inspector.part(run.id, 0)
    assert told["state"] == "ended" and [head["name"] for head in told["lanes"]] == ["base", "a"]
    for part in told["parts"]:
        trace = to_record(run.traces[part["lane"]])
        assert {name: part[name] for name in ("words", "steps", "candidates")} == {
            name: trace[name] for name in ("words", "steps", "candidates")
        }
    assert inspector.part(run.id, told["heard"])["parts"] == []
    assert runs.vote(run.id, "me", ("base", "a"), "b") == 1
    (row,) = runs.store.rows()
    assert row.battle.settings["forced"] == run.traces["a"].settings["forced"]
    assert "forced" in row.battle.a.trace["settings"]
    refused(runs.vote, run.id, "me", ("base", "a"), "a")
    again = inspector.of_battle(row.battle, "x")
    assert [one["name"] for one in again["turns"][0]["lanes"]] == ["a", "b"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"forced": "abc"},
        {"forced": [1.5]},
        {"prompt": 5},
        {"prompt": " "},
        {"lane": "other"},
        {"lane": ["a"]},
        {"settings": {}},
        {"settings": None},
        {"strengths": {"a": "x"}},
        {"strengths": {"a": 1000}},
        {"strengths": "x"},
        {"taus": {"a": -1}},
        {"mode": "magic"},
        {"history": [["user"]]},
        {"history": "x"},
    ],
)
def test_what_is_no_branch_is_refused(inspector, view, wrong):
    refused(inspector.begin, branch_from(view, "a", 2, 50, **wrong), "me")


@pytest.mark.parametrize(
    ("forced", "words"), [([10**9], "does not know"), ([-1], "does not know"), ([2], "ends it"), ([5] * 300, "room")]
)
def test_a_branch_that_cannot_be_gone_on_from_says_why(inspector, view, forced, words):
    run = inspector.begin(branch_from(view, "a", 2, 50, forced=forced), "me")
    while not run.ended:
        run.news(0, PATIENCE)
    assert run.news(0, 0).state == "failed" and words in run.news(0, 0).note


def again(inspector, replay, session="me"):
    for _ in range(int(PATIENCE / 0.01)):
        if (told := inspector.standing(replay, session)).over:
            return told
        threading.Event().wait(0.01)
    raise AssertionError("the replay does not end")


def test_a_view_is_answered_again_token_for_token(inspector, view):
    replay = inspector.replay(view, "me")
    told = again(inspector, replay)
    assert told.is_same and told.done == told.of == 36 and not told.changed
    assert "no longer here" in refused(inspector.standing, replay, "somebody else")
    assert [t["trace"]["steps"]["token"] for t in inspector.of_replay(replay, "me")["turns"][0]["lanes"]] == [
        t["trace"]["steps"]["token"] for t in view["turns"][0]["lanes"]
    ]


def test_a_replay_says_what_differs(inspector, view):
    changed = copy.deepcopy(view)
    trace = lane(changed, "a+b")["trace"]
    traces.change(trace, 7)
    trace["settings"]["lanes"]["a+b"][1]["revision"] = "another"
    told = again(inspector, inspector.replay(changed, "me"))
    assert told.words() == (
        "Not the same: a+b differs from token 8 of turn 1 on. Since then, the aligner b has other weights."
    )


def test_a_link_is_followed_to_the_same_answers(inspector, view):
    link = inspector.link(view)
    assert link.isascii() and not set(link) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert len(link) < 8000
    replay = inspector.follow(link, "me")
    assert again(inspector, replay).is_same
    assert inspector.of_replay(replay, "me")["turns"][0]["prompt"] == "the tin"


@pytest.mark.parametrize("link", ["", "###", "e30", "x" * 100_000, base64.urlsafe_b64encode(b'{"lanes": 5}').decode()])
def test_a_broken_link_is_refused(inspector, link):
    assert "broken" in refused(inspector.follow, link, "me")


# Files ----------------------------------------------------------------------------------------------------------------


def test_what_was_saved_opens_again(inspector, view):
    text = json.dumps(view)
    opened = views.read(text, "x.json")
    assert opened["turns"] == view["turns"] and opened["source"] == {"file": "x.json"}
    bare = views.read("\ufeff" + json.dumps(view["turns"][0]["lanes"][1]["trace"]), "x.json")
    assert bare["turns"][0]["lanes"][0]["trace"] == view["turns"][0]["lanes"][1]["trace"]


def test_branches_are_saved_with_the_view(inspector, view):
    run = ended(inspector.begin(branch_from(view, "a", 2, 50), "me"))
    lanes = inspector.of_run(run.id)["turns"][0]["lanes"]
    first = {"id": 7, "parent": None, "turn": 0, "lane": "a", "at": 2, "lanes": lanes}
    opened = views.read(json.dumps({**view, "branches": [first, {**first, "parent": 0, "at": 5}]}), "x.json")
    assert [(b["id"], b["parent"], b["at"]) for b in opened["branches"]] == [(0, None, 2), (1, 0, 5)]
    for wrong in ({"parent": 5}, {"turn": 9}, {"at": -1}, {"lanes": []}, {"lane": None}):
        refused(views.read, json.dumps({**view, "branches": [{**first, **wrong}]}), "x.json")


def test_a_vote_that_was_exported_opens(runs):
    run = ended(runs.start(ASKED, "me"))
    runs.vote(run.id, "me", ("base", "a"), "a")
    lines = io.StringIO()
    export(runs.store.rows(), "jsonl", lines)
    opened = views.read(lines.getvalue(), "votes.jsonl")
    assert [one["title"] for one in opened["turns"][0]["lanes"]] == ["Base", "a"]


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", "5", "{}", '{"turns": []}', '{"version": 1, "turns": 5}', "[" * 100_000, '{"steps": {}}',
     '{"version": 1, "turns": [{"prompt": "x", "lanes": [{"name": "a", "trace": {}}]}], "title": "x"}',
     '{"battle_id": "x"}', '{"version": 9, "turns": [{}]}', '{"a": NaN}'],
)  # fmt: skip
def test_what_is_no_trace_is_refused_in_a_sentence(text):
    assert len(refused(views.read, text, "x.json")) < 200


def test_the_trace_is_small_enough(inspector, view):
    """At 20 candidates a step: at most 1.5 KB a token (of one aligner, and of two composed)."""
    for name in ("base", "a", "a+b"):
        trace = lane(view, name)["trace"]
        candidates = sum(trace["candidates"]["count"]) / trace["tokens"]
        columns = {key: trace[key] for key in ("steps", "candidates", "words")}
        per_token = len(json.dumps(columns, ensure_ascii=False)) / trace["tokens"]
        assert per_token * 20 / max(20, candidates) < 1536

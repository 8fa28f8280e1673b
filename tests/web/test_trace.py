"""A record, decoded by the page, is what was written; what is not as the version says is refused in one sentence."""

import copy

import numpy as np
import pytest

from tests.web.conftest import ScriptError
from tests.web.records import aligner, columns, pack, random_steps, record, word

ONE = [aligner("one", 1.0, 0.4)]
TWO = [aligner("one", 1.0, 0.4), aligner("two", 0.5)]
# Everything a page reads of a lane, as plain JSON.
SEEN = """
    const seen = (lane) => ({
      ...lane,
      kept: null,
      words: [...lane.words].sort((a, b) => a[0] - b[0]),
      steps: lane.steps.map((step) => ({
        ...step,
        start: 0,
        ids: step.ids, texts: step.texts, logP: step.logP, logPt: step.logPt, logQ: step.logQ, noise: step.noise,
        draws: step.draws, weight: step.weight,
        logQs: lane.voices.map((name) => step.logQOf(name)), logQ0s: lane.voices.map((name) => step.logQ0Of(name)),
      })),
    });
"""


def steps_of(aligners: list[dict], count: int = 4) -> list[dict]:
    return random_steps(3, aligners, "product", 0.7, count)


@pytest.mark.parametrize("aligners", [[], ONE, TWO], ids=["base", "one", "two"])
def test_a_decoded_step_holds_what_was_written(js, aligners):
    steps = steps_of(aligners)
    lane = js(SEEN + "return seen(decodeTrace(record))", record=record(steps, aligners, temperature=0.7))
    assert lane["aligners"] == [one["name"] for one in aligners]
    assert lane["voices"] == (lane["aligners"] or ["base"])
    assert lane["own"] == {
        "mode": "product",
        "temperature": 0.7,
        "strengths": [one["beta"] for one in aligners],
        "taus": [one["tau"] for one in aligners],
    }
    assert (lane["name"], lane["first"], len(lane["steps"])) == ("+".join(lane["aligners"]) or "base", 0, 4)
    for n, (got, step) in enumerate(zip(lane["steps"], steps, strict=True)):
        assert (got["index"], got["token"], got["baseToken"]) == (n, step["token"], step["base_token"])
        assert (got["count"], got["inside"], got["nucleus"]) == (len(step["id"]), step["inside"], step["inside"])
        assert got["ids"] == step["id"]
        assert got["texts"] == [word(token) for token in step["id"]]
        assert got["ids"][got["chosen"]] == step["token"]
        assert got["ids"][got["base"]] == step["base_token"]
        assert got["logP"] == pytest.approx(step["log_p"], rel=1e-6)
        assert np.exp(got["logPt"][: step["inside"]]).sum() == pytest.approx(1, abs=1e-5)
        assert got["noise"] == pytest.approx(step["noise"], rel=1e-6)
        assert got["draws"] == step["draws"].tolist()
        assert got["weight"] == pytest.approx(step["weight"], abs=1e-6)
        for name, log_q, log_q0 in zip(lane["voices"], got["logQs"], got["logQ0s"], strict=True):
            assert log_q == pytest.approx(step["log_q"][name], rel=1e-6)
            assert log_q0 == pytest.approx(step["log_q0"][name], rel=1e-6)
        together = sum(step["log_q"].values()) - step["compose"]
        assert got["logQ"] == pytest.approx(together, abs=1e-5)
        gates = [one["tau"] is not None and step["kl"][one["name"]] > one["tau"] for one in aligners]
        assert got["gated"] == (bool(gates) and all(gates))
        assert [monitor["name"] for monitor in got["monitors"]] == lane["aligners"]
        assert [monitor["kl"] for monitor in got["monitors"]] == [
            np.float32(step["kl"][name]) for name in lane["aligners"]
        ]
        assert [monitor["gated"] for monitor in got["monitors"]] == gates
        assert (got["text"], got["entropy"], got["push"], got["ms"]) == (word(step["token"]), 1.25, 0.5, 12.5)
        assert (got["mass"], got["support"]) == (step["mass"], 0.5)
        assert got["rank"] >= 1
        assert got["rankP"] >= 1


def test_noise_that_was_not_kept_is_not_a_number_and_an_absent_q0_is_null(js):
    steps = steps_of(TWO)
    steps[1]["noise"] = np.full(len(steps[1]["id"]), np.nan)
    lane = js(SEEN + "return seen(decodeTrace(record))", record=record(steps, TWO, without_q0=("two",)))
    assert np.isnan(lane["steps"][1]["noise"]).all()
    assert [q0 is None for q0 in lane["steps"][1]["logQ0s"]] == [False, True]


@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 9), (0, 0, 7, 9), (0, 2, 2, 9)])
def test_a_lane_that_came_in_parts_is_the_lane_that_came_whole(js, cuts):
    steps = steps_of(TWO, 9)
    whole = record(steps, TWO, first=3)
    parts = [columns(steps[a:b], TWO, 3 + a) for a, b in zip(cuts, (*cuts[1:], 9), strict=True)]
    head = {key: whole[key] for key in whole if key not in ("version", "steps", "candidates", "words")}
    begun = {key: head[key] for key in ("lane", "settings")}
    body = """
        const lane = openTrace(begun);
        for (const part of parts) appendSteps(lane, part);
        endTrace(lane, head);
        const [a, b] = [seen(lane), seen(decodeTrace(whole))].map((all) => ({ ...all, head: null }));
        return [a, b, lane.head, lane.steps.length, lane.steps[0].index];
    """
    streamed, at_once, ended, count, first = js(SEEN + body, begun=begun, parts=parts, head=head, whole=whole)
    assert streamed == at_once
    assert ended == head
    assert (count, first, streamed["first"]) == (9, 3, 3)


def test_an_empty_answer_is_a_lane_without_steps(js):
    assert js("return decodeTrace(record).steps", record=record([], ONE)) == []


def test_aligners_may_be_called_as_what_every_object_has(js):
    named = [aligner("constructor"), aligner("__proto__", 0.5)]
    steps = steps_of(named)
    body = (
        "const lane = decodeTrace(record);"
        "return [lane.steps[0].logQOf('__proto__'), recut(lane).count, recut(lane, {strengths: {one: 3}}).count]"
    )
    log_q, changed, others = js(body, record=record(steps, named))
    assert log_q == pytest.approx(steps[0]["log_q"]["__proto__"], rel=1e-6)
    assert (changed, others) == (0, 0)


def spoil(change) -> dict:
    """A good record with one thing done to it."""
    spoilt = copy.deepcopy(record(steps_of(TWO), TWO))
    change(spoilt)
    return spoilt


def spoilt_candidates(name: str, value) -> dict:
    return spoil(lambda r: r["candidates"].update({name: value}))


def spoilt_steps(name: str, value) -> dict:
    return spoil(lambda r: r["steps"].update({name: value}))


LAST = [step["id"][-1] for step in steps_of(TWO)]
SIZE = sum(len(step["id"]) for step in steps_of(TWO))
SPOILT = {
    "not an object": ([1], "its version is undefined, and this page reads version 1"),
    "nothing": (None, "its version is undefined"),
    "a later version": (spoil(lambda r: r.update(version=2)), "its version is 2"),
    "no settings": (spoil(lambda r: r.pop("settings")), "do not name its lane's aligners"),
    "another lane": (spoil(lambda r: r.update(lane="toString")), "do not name its lane's aligners"),
    "no mode": (spoil(lambda r: r["settings"].pop("modes")), "lack the mode"),
    "no strength": (spoil(lambda r: r["settings"]["lanes"]["one+two"][0].pop("beta")), "strength or gate"),
    "no steps": (spoil(lambda r: r.pop("steps")), "steps, candidates or words are missing"),
    "no words": (spoil(lambda r: r.update(words=None)), "steps, candidates or words are missing"),
    "a column less": (spoil(lambda r: r["steps"].pop("kl")), "the column kl is missing"),
    "a short column": (spoilt_steps("text", ["a"]), "the column text is missing or of another length"),
    "a text for a number": (spoilt_steps("kl", ["a"] * 4), "the column kl holds something else"),
    "null for a number": (spoilt_steps("mass", [None] * 4), "the column mass holds something else"),
    "a number for a text": (spoilt_steps("text", [1] * 4), "the column text holds something else"),
    "no mass": (spoilt_steps("mass", [0] * 4), "step 1 has a nucleus without mass"),
    "no monitor": (spoil(lambda r: r["steps"]["monitors"].pop("two")), "it has no monitor of two"),
    "no token columns": (spoil(lambda r: r["steps"].pop("token")), "the column token is missing"),
    "not base64": (spoilt_candidates("id", "€€"), "the column id is missing"),
    "not packed": (spoilt_candidates("weight", [1, 2]), "the column weight is missing"),
    "half a candidate": (spoilt_candidates("noise", pack([1] * (SIZE - 1), "<f4")), "the column noise is missing"),
    "no log Q": (spoil(lambda r: r["candidates"]["log_q"].pop("one")), "the column log_q of one is missing"),
    "log P of nothing": (spoilt_candidates("log_p", pack([np.nan] * SIZE, "<f4")), "log_p holds something that is not"),
    "halves of candidates": (spoilt_candidates("inside", [1.5] * 4), "the column inside holds something else"),
    "negative counts": (spoilt_candidates("count", [-1, 1, SIZE, 0]), "step 1 keeps no candidates"),
    "nothing inside": (spoilt_candidates("inside", [0] * 4), "step 1 keeps no candidates"),
    "more inside than kept": (spoilt_candidates("inside", [SIZE] * 4), "step 1 keeps no candidates"),
    "a token from elsewhere": (spoilt_steps("token", [99] * 4), "step 1 lacks the candidate that was drawn"),
    "what the net left out": (spoilt_steps("base_token", LAST), "step 1 lacks the candidate that was drawn"),
    "a word less": (spoil(lambda r: r["words"].clear()), "it has no word for token"),
    "a word that is none": (spoil(lambda r: r["words"].update({"1": 1})), "a word is not a text"),
    "no beginning": (spoil(lambda r: r["steps"].pop("first")), "its steps begin at undefined"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_malformed_record_is_refused_in_one_sentence(js, name):
    spoilt, says = SPOILT[name]
    with pytest.raises(ScriptError) as refused:
        js("return decodeTrace(record).name", record=spoilt)
    message = str(refused.value)
    assert message.startswith("This trace cannot be read: ")
    assert says in message
    assert message.endswith(".")
    assert message.count(". ") == 0


def test_a_part_that_does_not_fit_leaves_the_lane_as_it_was(js):
    steps = steps_of(TWO, 6)
    parts = {
        "again": columns(steps[:3], TWO, 0),
        "too late": columns(steps[4:], TWO, 4),
        "without log_q0": columns(steps[3:], TWO, 3, without_q0=("one",)),
        "spoilt": {**columns(steps[3:], TWO, 3), "words": {}, "steps": {}},
    }
    body = """
        const lane = decodeTrace(begun);
        const before = JSON.stringify(seen(lane));
        const said = Object.values(parts).map((part) => {
          try { appendSteps(lane, part); } catch (error) { return error.message; }
        });
        const same = JSON.stringify(seen(lane)) === before && lane.kept.length;
        appendSteps(lane, last);
        return [said, same, lane.steps.length];
    """
    begun = record(steps[:3], TWO)
    said, same, count = js(SEEN + body, begun=begun, parts=parts, last=columns(steps[3:], TWO, 3))
    assert [text.removeprefix("This trace cannot be read: ") for text in said] == [
        "its steps begin at 0, where 3 comes next.",
        "its steps begin at 4, where 3 comes next.",
        "log_q0 is kept of some steps and not of others.",
        "the column token is missing or of another length.",
    ]
    assert same == sum(len(step["id"]) for step in steps[:3])
    assert count == 6


def test_a_lane_is_not_ended_by_another_ones_end(js):
    with pytest.raises(ScriptError, match=r"one ended, and this is one\+two"):
        js("endTrace(decodeTrace(a), b)", a=record(steps_of(TWO), TWO), b=record(steps_of(ONE), ONE))

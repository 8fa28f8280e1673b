"""A trace's JSON: nothing is lost on the way, it stays small, and whatever is no trace is refused in one sentence."""

import base64
import copy
import json
import math

import numpy as np
import pytest

from ram_demo.decoding.record import columns, from_record, to_record
from ram_demo.errors import UserError
from tests import traces
from tests.decoding.conftest import Bench


@pytest.fixture(scope="module")
def records(bench: Bench) -> dict[str, dict]:
    """By lane: what a run of every kind of lane is written as. `full` settings, as a plan records them."""
    lanes = [bench.lane(), bench.lane(("first", 1.0), tau=0.5), bench.lane(("first", 1.0), ("other", 0.5))]
    run = bench.run(lanes, keep=14)
    found = {}
    for lane in lanes:
        trace = run.traces[lane.name]
        settings = traces.settings(lane.name, [(w.name, w.beta) for w in lane.weighers])
        object.__setattr__(trace, "settings", settings)
        found[lane.name] = (trace, to_record(trace))
    return found


@pytest.mark.parametrize("lane", ["base", "first", "first+other"])
def test_what_is_written_reads_back(records, lane):
    trace, record = records[lane]
    back = from_record(json.loads(json.dumps(record)))
    assert (back.lane, back.done, back.text, back.settings) == (trace.lane, trace.done, trace.text, trace.settings)
    for mine, theirs in zip(back.steps, trace.steps, strict=True):
        for name in ("index", "token", "base_token", "text", "gated", "nucleus", "rank_p", "rank"):
            assert getattr(mine, name) == getattr(theirs, name)
        for name in ("kl", "support", "entropy", "push", "ms", "mass", "compose"):
            assert np.float32(getattr(mine, name)) == np.float32(getattr(theirs, name))
        assert mine.slate == theirs.slate, "to the bit"
        assert [m.aligner for m in mine.monitors] == [m.aligner for m in theirs.monitors]
        assert [m.gated for m in mine.monitors] == [m.gated for m in theirs.monitors]


def test_it_is_read_with_numpy_alone(records):
    trace, record = records["first"]
    packed = record["candidates"]
    ids = np.frombuffer(base64.b64decode(packed["id"]), "<i4")
    log_q = np.frombuffer(base64.b64decode(packed["log_q"]["first"]), "<f4")
    assert len(ids) == len(log_q) == sum(packed["count"])
    assert tuple(ids[: packed["count"][0]]) == trace.steps[0].slate.ids
    assert [record["words"][str(i)] for i in ids[: packed["count"][0]]] == list(trace.steps[0].slate.texts)


def test_a_part_of_the_steps_is_written_alike(records):
    trace, record = records["first"]
    part = columns(trace.steps[4:9], ["first"])
    assert part["steps"]["first"] == 4
    assert part["steps"]["kl"] == record["steps"]["kl"][4:9]
    assert columns([], ["first"])["candidates"]["count"] == []


def test_a_trace_from_before_there_were_versions_is_read(records):
    trace, _ = records["first"]
    old = {**trace.summary(), "steps": [step.to_json() for step in trace.steps]}
    back = from_record(json.loads(json.dumps(old)))
    assert [s.token for s in back.steps] == [s.token for s in trace.steps]
    for mine, theirs in zip(back.steps, trace.steps, strict=True):
        for a, b in zip(mine.candidates(), theirs.candidates(), strict=True):
            assert (a.token, a.p, a.q, a.weight) == (b.token, *map(pytest.approx, (b.p, b.q, b.weight)))
        assert all(map(math.isnan, mine.slate.noise)), "so nothing is decided again"
    json.dumps(to_record(back), allow_nan=False)


def broken(record: dict):
    """(what is wrong, the record with that wrong)."""

    def changed(*path, to):
        made = copy.deepcopy(record)
        place = made
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to
        return made

    yield "no object", [1, 2]
    yield "another version", changed("version", to=2)
    yield "a version that is no number", changed("version", to="<script>")
    yield "no lane", changed("lane", to=None)
    yield "a lane it has no aligners of", changed("lane", to="other")
    yield "another end", changed("done", to="exploded")
    yield "settings without a mode", changed("settings", "modes", to={})
    yield "a strength that is none", changed("settings", "lanes", "first", to=[{"name": "first", "beta": "1"}])
    yield "a temperature that is none", changed("settings", "temperature", to="hot")
    yield "a forced token that is none", changed("settings", "forced", to=["x"])
    yield "a column too short", changed("steps", "kl", to=record["steps"]["kl"][:-1])
    yield "a word for a number", changed("steps", "kl", 0, to="big")
    yield "no number", changed("steps", "kl", 0, to=math.nan)
    yield "a number for a text", changed("steps", "text", 0, to=5)
    yield "more inside than there are", changed("candidates", "inside", 0, to=10**6)
    yield "fewer than none", changed("candidates", "count", 0, to=-5)
    yield "no base64", changed("candidates", "log_p", to="###")
    yield "half a number", changed("candidates", "log_p", to="AAAA")
    yield "infinities", changed("candidates", "log_p", to=base64.b64encode(
        np.full(sum(record["candidates"]["count"]), np.inf, "<f4").tobytes()).decode())  # fmt: skip
    yield "no Q", changed("candidates", "log_q", to={})
    yield "a token without its text", changed("words", to={})


def test_what_is_no_trace_is_refused(records):
    for what, record in broken(records["first"][1]):
        with pytest.raises(UserError) as refused:
            from_record(record)
        assert len(str(refused.value)) < 200 and "\n" not in str(refused.value), what

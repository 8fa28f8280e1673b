"""The JSON that others rely on, key by key as the contract names them."""

import json

import pytest

from ram_demo.decoding.trace import Candidate, Monitor, Step, Trace, first_difference

STEP_KEYS = {
    "lane", "index", "token", "text", "kl", "gated", "nucleus", "support", "entropy", "base_token", "ms", "candidates"
}  # fmt: skip
DONE_KEYS = {
    "lane", "done", "text", "tokens", "tokens_per_s", "first_token_ms", "gated_share", "mean_kl", "seed", "settings"
}  # fmt: skip


def step(**changes) -> Step:
    values = {
        "lane": "concise", "index": 0, "token": 5, "text": "a", "kl": 0.5, "gated": False, "nucleus": 3, "support": 0.9,
        "entropy": 0.3, "base_token": 6, "push": 0.1, "ms": 20.0, "candidates": (Candidate(5, "a", 0.5, 0.4, 0.6),),
    }  # fmt: skip
    return Step(**{**values, **changes})


def trace(*steps: Step) -> Trace:
    return Trace("concise", "eos", "a", 12.0, 80.0, {"seed": 7, "mode": "product"}, steps)


def test_a_step_holds_the_contracts_keys():
    record = json.loads(json.dumps(step().to_json()))
    assert record.keys() >= STEP_KEYS
    assert record["candidates"] == [{"token": 5, "text": "a", "p": 0.5, "q": 0.4, "weight": 0.6}]
    assert "monitors" not in record


def test_a_composed_lane_tells_each_aligners_gate():
    record = step(monitors=(Monitor("a", 0.1, True, 0.5), Monitor("b", 0.2, False, 0.6))).to_json()
    assert record["monitors"][1] == {"aligner": "b", "kl": 0.2, "gated": False, "support": 0.6}


def test_a_lanes_end_holds_the_contracts_keys():
    record = json.loads(json.dumps(trace(step(), step(kl=0.1, gated=True)).summary()))
    assert record.keys() == DONE_KEYS
    assert record["tokens"] == 2
    assert record["seed"] == 7
    assert record["gated_share"] == 0.5
    assert record["mean_kl"] == pytest.approx(0.3)


def test_a_trace_is_its_end_and_its_steps():
    record = trace(step()).to_json()
    assert record["steps"] == [step().to_json()]
    assert {**trace(step()).summary(), "steps": record["steps"]} == record


def test_a_lane_without_steps_has_shares_of_nothing():
    assert (trace().gated_share, trace().mean_kl) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "at"),
    [([1, 2, 3], [1, 9, 3], 1), ([1], [2], 0), ([1, 2], [1, 2], None), ([1, 2], [1, 2, 3], None), ([], [1], None)],
)
def test_where_two_answers_part(a, b, at):
    assert first_difference(a, b) == at

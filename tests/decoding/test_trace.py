"""The JSON that others rely on, key by key as the contract names them."""

import json

import pytest

from ram_demo.decoding.trace import Monitor, first_difference
from tests import traces

STEP_KEYS = {
    "lane", "index", "token", "text", "kl", "gated", "nucleus", "support", "entropy", "base_token", "ms", "candidates"
}  # fmt: skip
DONE_KEYS = {
    "lane", "done", "text", "tokens", "tokens_per_s", "first_token_ms", "gated_share", "mean_kl", "seed", "settings"
}  # fmt: skip


def test_a_step_holds_the_contracts_keys():
    record = json.loads(json.dumps(traces.step().to_json()))
    assert record.keys() >= STEP_KEYS
    (candidate,) = record["candidates"]
    assert candidate == {"token": 5, "text": "<5>", "p": pytest.approx(0.5), "q": pytest.approx(0.4), "weight": 0.6}
    assert "monitors" not in record


def test_a_composed_lane_tells_each_aligners_gate():
    record = traces.step(monitors=(Monitor("a", 0.1, True, 0.5), Monitor("b", 0.2, False, 0.6))).to_json()
    assert record["monitors"][1] == {"aligner": "b", "kl": 0.2, "gated": False, "support": 0.6}


def test_a_step_lists_the_weightiest_by_p_or_weight_and_the_two_it_names():
    slate = traces.slate((1, 0.1, 0.1, 0.6), (2, 0.1, 0.1, 0.2), (3, 0.05, 0.1, 0.15), (4, 0.5, 0.1, 0.05))
    listed = traces.step(token=3, base_token=4, slate=slate).candidates(2)
    assert [c.token for c in listed] == [1, 3, 4], "4 is the proposal's own first choice, 3 was drawn"


def test_a_lanes_end_holds_the_contracts_keys():
    made = traces.trace("concise", [5, 6], [("concise", 1.0)])
    record = json.loads(json.dumps(made.summary()))
    assert record.keys() == DONE_KEYS
    assert (record["tokens"], record["seed"]) == (2, 7)
    assert record["gated_share"] == 0.5
    assert record["mean_kl"] == pytest.approx(0.5)


def test_a_lane_without_steps_has_shares_of_nothing():
    made = traces.trace("base", [])
    assert (made.gated_share, made.mean_kl) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "at"),
    [([1, 2, 3], [1, 9, 3], 1), ([1], [2], 0), ([1, 2], [1, 2], None), ([1, 2], [1, 2, 3], None), ([], [1], None)],
)
def test_where_two_answers_part(a, b, at):
    assert first_difference(a, b) == at

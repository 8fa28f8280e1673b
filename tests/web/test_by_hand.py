"""What-if at steps made by hand, worked out by hand: each mode, ties, gates; and what a trace lacks, said in words."""

import math

import numpy as np
import pytest

from tests.web.conftest import ScriptError
from tests.web.records import aligner, by_hand, random_steps, record


def cut(js, step: dict, aligners=None, temperature=1.0, mode="product", own=None, **asked):
    """The token decided again, at one step made by hand."""
    made = record([step], aligners or [aligner("one")], own or mode, temperature)
    return js("return recut(decodeTrace(record), asked).tokens[0]", record=made, asked={"mode": mode, **asked})


def test_modes_worked_out_by_hand(js):
    # product: 0.3*0.6, 0.6*0.1, 0.1*0.3; par: 0.6, 0.1, 0.3; ratio: 0.3*1, 0.6*0.5, 0.1*1.5; sis: 1*0.6, 2*0.1, none
    made = record([by_hand(log_p=np.log([0.28, 0.62, 0.1]))], [aligner("one")], temperature=1.0)
    modes = js("return modes(decodeTrace(record), 0)", record=made)
    product, sis, par, ratio = (mode["weights"] for mode in modes)
    assert product == pytest.approx(np.array([0.168, 0.062, 0.03]) / 0.26, abs=1e-6)
    assert sis == pytest.approx([0.75, 0.25, 0], abs=1e-6)
    assert par == pytest.approx([0.6, 0.1, 0.3], abs=1e-6)
    assert ratio == pytest.approx(np.array([0.28, 0.31, 0.15]) / 0.74, abs=1e-6)
    assert [mode["token"] for mode in modes] == [11, 11, 11, 10]


def test_noise_is_weighed_by_the_temperature(js):
    noisy = by_hand(noise=np.array([0.0, 0.0, 2.0]), token=11)
    # log w: 11 leads 12 by log(0.18/0.03) = 1.79: 2 nats of noise turn it at T = 1, and not at 0.7, nor at 0
    assert cut(js, noisy, temperature=1.0) == 12
    assert cut(js, noisy, temperature=0.7) == 11
    assert cut(js, by_hand(noise=np.array([0.0, 0.0, 99.0])), temperature=0.0) == 11


def test_strength_is_an_exponent(js):
    # 10 against 11: log 2 for the proposal, log 6 * beta for the aligner: they meet at beta = 0.387
    assert cut(js, by_hand(), strengths={"one": 0.38}) == 10
    assert cut(js, by_hand(), strengths={"one": 0.40}) == 11


def test_the_gate_is_open_at_its_threshold(js):
    assert cut(js, by_hand(), taus={"one": 0.5}) == 11
    assert cut(js, by_hand(), taus={"one": 0.4999}) == 10
    assert cut(js, by_hand(), [aligner("one", 1.0, 0.2)], taus={"one": None}) == 11


def test_one_of_two_aligners_is_gated_for_itself(js):
    two = by_hand(
        log_q={"one": np.log([0.6, 0.1, 0.3]), "two": np.log([0.05, 0.05, 0.9])},
        log_q0={},
        kl={"one": 0.5, "two": 2.0},
        token=12,
    )
    both = [aligner("one"), aligner("two")]
    made = record([two], both, temperature=1.0, without_q0=("one", "two"))
    tried = [{}, {"taus": {"two": 1}}, {"taus": {"one": 0.4}}, {"taus": {"one": 0.4, "two": 1}}]
    cuts = js("const lane = decodeTrace(record); return tried.map((s) => recut(lane, s))", record=made, tried=tried)
    # 0.3*0.6*0.05, 0.6*0.1*0.05, 0.1*0.3*0.9; then one alone; then two alone: 0.015, 0.03, 0.09; then the base
    assert [one["tokens"] for one in cuts] == [[12], [11], [12], [10]]
    assert [one["gates"] for one in cuts] == [[[0], [0]], [[0], [1]], [[1], [0]], [[1], [1]]]
    assert [one["gated"] for one in cuts] == [[0], [0], [0], [1]]


def test_a_single_draw_is_the_token(js):
    alone = by_hand(draws=np.array([0, 0, 1]), noise=np.array([50.0, 50.0, 0.0]), token=12)
    for beta in (0.3, 1, 10):
        assert cut(js, alone, mode="sis", strengths={"one": beta}) == 12
    assert cut(js, alone, mode="sis", strengths={"one": 0}) == 10


def test_ties_go_to_the_recorded_token(js):
    # 10 and 11 have the same product at strength 1: 0.3*0.4 = 0.6*0.2, whichever comes first among the candidates.
    for token in (10, 11):
        tied = by_hand(log_q={"one": np.log([0.4, 0.2, 0.4])}, token=token)
        for temperature in (1.0, 0.0):
            assert cut(js, tied, temperature=temperature) == token
            assert cut(js, tied, temperature=temperature, own="par") == token


def test_a_run_that_decided_in_float32_stays_as_it_was_where_nothing_is_changed(js):
    # 11 is ahead by 5e-5, less than what float32 may have lost: 10 was drawn, and stays where the lane is as it was.
    near = by_hand(log_q={"one": np.log([0.4 * math.exp(5e-5), 0.2, 0.4])}, token=10)
    assert cut(js, near) == 10
    assert cut(js, near, taus={"one": 3}) == 10
    assert cut(js, near, own="par") == 11
    assert cut(js, near, [aligner("one", 0.5)], strengths={"one": 1}) == 11
    far = by_hand(log_q={"one": np.log([0.4 * math.exp(2e-4), 0.2, 0.4])}, token=10)
    assert cut(js, far) == 11


def test_a_candidate_without_noise_cannot_win(js):
    assert cut(js, by_hand(noise=np.array([0, np.nan, 0])), mode="ratio", strengths={"one": 0.01}) == 11


def test_what_is_beyond_the_nucleus_is_never_drawn(js):
    wanted = by_hand(inside=2, noise=np.array([0, 0, 50.0]), mass=0.9)
    made = record([wanted], [aligner("one")], temperature=1.0)
    token, weights, push = js(
        "const lane = decodeTrace(record);"
        "return [recut(lane, {strengths: {one: 10}}).tokens[0], weights(lane, 0), pushes(lane, 0)]",
        record=made,
    )
    assert token == 11
    assert weights == pytest.approx([0.75, 0.25, 0], abs=1e-6)
    assert push["start"][:2] == pytest.approx(np.log([1 / 3, 2 / 3]), abs=1e-6)
    assert np.exp(push["total"][:2]) == pytest.approx([0.75, 0.25], abs=1e-6)


# What cannot be had ---------------------------------------------------------------------------------------------------

ONE = [aligner("one", 1.0, 0.4)]
TWO = [*ONE, aligner("two", 0.5, 0.2)]
TUNED = "This trace does not hold what two was tuned from, and ratio needs it."
BEFORE = "This answer was made before traces kept what a recut needs."
DRAWS = "This trace does not hold the draws that sis chooses from."


def test_ratio_cannot_be_had_of_an_aligner_whose_base_is_not_known(js):
    aligners = TWO
    steps = random_steps(29, aligners, "product", 0.7, 6)
    for step in steps:
        step["kl"] = {"one": 0.1, "two": 0.3}
    made = record(steps, aligners, without_q0=("two",))
    ask = "return canRecut(decodeTrace(record), asked)"
    assert js(ask, record=made, asked={}) == ""
    assert js(ask, record=made, asked={"mode": "ratio"}) == TUNED
    assert js(ask, record=made, asked={"mode": "ratio", "taus": {"one": 0.05}}) == ""  # both are gated everywhere
    # Winners of a ratio without two were not looked for when candidates were kept.
    assert js(ask, record=made, asked={"mode": "ratio", "strengths": {"two": 0}}) == TUNED
    assert js(ask, record=made, asked={"mode": "ratio", "strengths": {"one": 0, "two": 0}}) == ""
    open_gate = {"taus": {"two": None}}
    for call in ("recut(lane, s)", "weights(lane, 0, s)", "pushes(lane, 0, s)"):
        with pytest.raises(ScriptError, match="what two was tuned from"):
            js(f"const lane = decodeTrace(record); return {call}", record=made, s={"mode": "ratio", **open_gate})
    modes = js("return modes(decodeTrace(record), 0, s)", record=made, s=open_gate)
    assert [mode["lack"] for mode in modes] == ["", "", "", TUNED]
    assert (modes[3]["weights"], modes[3]["token"]) == (None, None)


def test_an_answer_made_before_shows_everything_and_cannot_be_recut(js):
    aligners = ONE
    steps = random_steps(31, aligners, "product", 0.7, 6)
    for step in steps:
        step["noise"] = np.full(len(step["id"]), np.nan)
        step["draws"] = np.zeros(len(step["id"]), int)
        step["kl"] = {"one": 0.2}
    made = record(steps, aligners, without_q0=("one",))
    body = """
        const lane = decodeTrace(record);
        return [canRecut(lane), modes(lane, 0), weights(lane, 0), pushes(lane, 0).of, why(lane, 0)];
    """
    lack, modes, weights, of, words = js(body, record=made)
    assert lack == BEFORE
    assert [mode["lack"] for mode in modes] == ["", DRAWS, "", TUNED.replace("two", "one")]
    assert [mode["token"] for mode in modes] == [None] * 4
    assert modes[0]["weights"] == weights
    assert of == "log Pt"
    assert len(words) >= 2
    with pytest.raises(ScriptError, match="made before"):
        js("return recut(decodeTrace(record))", record=made)
    for mode in ("sis", "ratio"):
        words = js("return why(decodeTrace(record), 0)", record=record(steps, aligners, mode, without_q0=("one",)))
        assert not any("not among" in text or "favours" in text for text in words)


def test_what_each_of_several_said_may_not_be_known_of_an_answer_made_before(js):
    nothing = np.full(3, -np.inf)
    step = by_hand(log_q={"one": nothing, "two": nothing}, kl={"one": 1.0, "two": 1.0}, noise=np.full(3, np.nan))
    made = record([step], [aligner("one"), aligner("two")], without_q0=("one", "two"))
    lacks, q, words = js(
        "const lane = decodeTrace(record);"
        "return [modes(lane, 0).map((mode) => mode.lack), lane.steps[0].logQ, why(lane, 0)]",
        record=made,
    )
    assert lacks == ["This trace does not hold what one said by itself."] * 4
    assert q == [-math.inf] * 3
    assert words[-1] == "It has the largest weight, 67%."


def test_a_weight_of_zero_in_an_answer_made_before_moves_nothing_else(js):
    zero = by_hand(log_q={"one": np.array([math.log(0.6), math.log(0.1), -math.inf])})
    push = js("return pushes(decodeTrace(record), 0)", record=record([zero], [aligner("one")]))
    assert push["aligners"][0]["push"][2] == -math.inf
    assert np.exp(push["total"]) == pytest.approx([0.75, 0.25, 0], abs=1e-6)
    assert push["start"][0] + push["aligners"][0]["push"][0] + push["norm"] == pytest.approx(push["total"][0])


def test_kl_is_compared_with_a_threshold_as_the_run_did(js):
    # The run saw KL in float32, a little above 0.1, and wrote it as 0.1.
    assert cut(js, by_hand(kl={"one": 0.1}), taus={"one": 0.1}) == 10
    assert cut(js, by_hand(kl={"one": 0.1}), taus={"one": 0.10000000149011612}) == 11
    several = by_hand(kl={"one": 0.1, "two": 9.0}, log_q=dict.fromkeys(("one", "two"), by_hand()["log_q"]["one"]))
    both = [aligner("one"), aligner("two", 1.0, 1.0)]
    made = record([{**several, "log_q0": {}}], both, without_q0=("one", "two"))
    for tau, gated in ((0.1, 1), (0.10000000149011612, 0)):
        gates = js("return recut(decodeTrace(record), s).gates", record=made, s={"taus": {"one": tau}})
        assert gates == [[gated], [1]]


def test_there_is_no_fifth_mode(js):
    with pytest.raises(ScriptError, match="There is no mode toString"):
        js("return recut(decodeTrace(record), {mode: 'toString'})", record=record([by_hand()], [aligner("one")]))


def test_a_lane_without_steps_changes_nothing(js):
    made = js("return recut(decodeTrace(record), {mode: 'sis'})", record=record([], [aligner("one")]))
    assert made == {"tokens": [], "changed": [], "gated": [], "gates": [[]], "first": -1, "count": 0}

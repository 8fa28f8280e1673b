"""Steps decided again by the page are those that brute force decides from design's formulas, over everything kept."""

import itertools
import math

import numpy as np
import pytest

from tests.web.conftest import ScriptError
from tests.web.records import MODES, aligner, decide, distribution, log_weights, random_steps, record

TEMPERATURES = (0.7, 0.0, 3.0)
LANES = {
    "one": [aligner("one", 1.0, 0.4)],
    "ungated": [aligner("one", 2.5)],
    "two": [aligner("one", 1.0, 0.4), aligner("two", 0.5, 0.2)],
    "three": [aligner("one", 0.3, 0.4), aligner("two", 0.0), aligner("three", 1.5, 1.0)],
}
STRENGTHS = (0, 0.3, 1, 2.5, 10)
TAUS = (None, 0.0, 0.1, 0.5)
COUNT = 12

each_lane = pytest.mark.parametrize("lane", LANES)
each_mode = pytest.mark.parametrize("mode", MODES)


def changes(names: list[str]) -> list[dict]:
    """Settings to try: everything for one aligner at a time, one value for all, and several things at once."""
    tried = [{}, *({"mode": mode} for mode in MODES)]
    for name in names:
        tried += [{"strengths": {name: beta}} for beta in STRENGTHS] + [{"taus": {name: tau}} for tau in TAUS]
    for mode, beta, tau in itertools.product(MODES, STRENGTHS, TAUS):
        tried.append({"mode": mode, "strengths": dict.fromkeys(names, beta), "taus": dict.fromkeys(names, tau)})
    return tried


def full(aligners: list[dict], mode: str, asked: dict) -> tuple[str, dict, dict]:
    """Mode, strengths and thresholds as they are when these changes are made to a lane."""
    strengths = {one["name"]: one["beta"] for one in aligners} | asked.get("strengths", {})
    taus = {one["name"]: one["tau"] for one in aligners} | asked.get("taus", {})
    return asked.get("mode", mode), strengths, taus


@each_lane
@each_mode
def test_a_recut_decides_as_brute_force_does(js, lane, mode):
    aligners = LANES[lane]
    tried = changes([one["name"] for one in aligners])
    for temperature in TEMPERATURES:
        steps = random_steps(11, aligners, mode, temperature, COUNT)
        cuts = js(
            "const lane = decodeTrace(record); return tried.map((settings) => recut(lane, settings))",
            record=record(steps, aligners, mode, temperature),
            tried=tried,
        )
        moved = 0
        for asked, cut in zip(tried, cuts, strict=True):
            now = full(aligners, mode, asked)
            tokens = [decide(step, *now, temperature) for step in steps]
            differs = [token != step["token"] for token, step in zip(tokens, steps, strict=True)]
            assert cut["tokens"] == tokens, asked
            assert cut["changed"] == differs
            assert cut["count"] == sum(differs)
            assert cut["first"] == (differs.index(True) if any(differs) else -1)
            gates = [
                [now[2][one["name"]] is not None and step["kl"][one["name"]] > now[2][one["name"]] for step in steps]
                for one in aligners
            ]
            assert cut["gates"] == gates
            assert cut["gated"] == [all(of) for of in zip(*gates, strict=True)]
            moved += cut["count"]
        assert cuts[0]["count"] == 0
        assert moved


@each_lane
def test_strength_zero_and_a_gate_that_is_always_shut_are_the_base(js, lane):
    aligners = LANES[lane]
    steps = random_steps(5, aligners, "product", 0.7, COUNT)
    names = [one["name"] for one in aligners]
    shut = {"taus": dict.fromkeys(names, -1)}
    for asked in ({"strengths": dict.fromkeys(names, 0)}, shut, {**shut, "mode": "sis"}):
        tokens = js("return recut(decodeTrace(record), asked).tokens", record=record(steps, aligners), asked=asked)
        assert tokens == [step["base_token"] for step in steps]


def test_the_base_stays_as_it_is(js):
    steps = random_steps(5, [], "product", 0.7, COUNT)
    body = (
        "const lane = decodeTrace(record);"
        "return [recut(lane, {mode: 'par', strengths: {one: 3}}), weights(lane, 0), pushes(lane, 0), modes(lane, 0)]"
    )
    cut, weights, push, modes = js(body, record=record(steps, []))
    assert cut["first"] == -1
    assert not any(cut["gated"])
    inside = steps[0]["inside"]
    assert weights[:inside] == pytest.approx(distribution(steps[0], "product", {}, {}, 0.7), abs=1e-5)
    assert (push["of"], push["aligners"]) == ("log Pt", [])
    assert [mode["token"] for mode in modes] == [steps[0]["token"]] * 4


@each_lane
@each_mode
def test_weights_are_the_distribution_that_is_drawn_from(js, lane, mode):
    aligners = LANES[lane]
    tried = changes([one["name"] for one in aligners])
    for temperature in TEMPERATURES:
        steps = random_steps(17, aligners, mode, temperature, 1)
        made = js(
            "const lane = decodeTrace(record);"
            "return lane.steps.map((_, i) => tried.map((settings) => weights(lane, i, settings)))",
            record=record(steps, aligners, mode, temperature),
            tried=tried,
        )
        for step, of_step in zip(steps, made, strict=True):
            for asked, pi in zip(tried, of_step, strict=True):
                wanted = distribution(step, *full(aligners, mode, asked), temperature)
                assert pi[: step["inside"]] == pytest.approx(wanted, abs=1e-5)
                assert pi[step["inside"] :] == [0] * (len(pi) - step["inside"])


@each_lane
@each_mode
def test_pushes_add_up_to_the_final_log_weight(js, lane, mode):
    aligners = LANES[lane]
    names = [one["name"] for one in aligners]
    tried = changes(names)
    steps = random_steps(19, aligners, mode, 0.7, 1)
    made = js(
        "const lane = decodeTrace(record);"
        "return lane.steps.map((_, i) => tried.map((settings) => pushes(lane, i, settings)))",
        record=record(steps, aligners, mode),
        tried=tried,
    )
    for step, of_step in zip(steps, made, strict=True):
        inside = step["inside"]
        log_pt = step["log_p"][:inside] - math.log(step["mass"])
        for asked, got in zip(tried, of_step, strict=True):
            now, strengths, taus = full(aligners, mode, asked)
            weighs = {n: b for n, b in strengths.items() if b and (taus[n] is None or step["kl"][n] <= taus[n])}
            log = log_weights(step, now, strengths, taus)
            final = log - log.max() - math.log(np.exp(log - log.max()).sum())
            total = np.array(got["total"][:inside])
            assert total == pytest.approx(final, abs=1e-4)
            start = np.array(got["start"][:inside])
            if weighs and now in ("par", "sis"):
                with np.errstate(divide="ignore"):
                    first = np.zeros(inside) if now == "par" else np.log(step["draws"][:inside])
                assert got["of"] == ("0" if now == "par" else "log draws")
            else:
                first = log_pt
                assert got["of"] == "log Pt"
            assert start == pytest.approx(first, abs=1e-5)
            # Every aligner's own push by its definition; then the sum, term by term.
            for one in got["aligners"]:
                name, push = one["name"], np.array(one["push"][:inside])
                said = step["log_q"][name] - (step["log_q0"][name] if now == "ratio" else 0)
                mean = np.average(said[:inside], weights=np.exp(log_pt))
                assert push == pytest.approx(weighs.get(name, 0) * (said[:inside] - mean), abs=1e-4)
            summed = start + sum(np.array(one["push"][:inside]) for one in got["aligners"]) + got["norm"]
            assert summed == pytest.approx(total, abs=1e-9)
            outside = [got["start"], got["total"], *(one["push"] for one in got["aligners"])]
            assert all(np.isnan(values[inside:]).all() for values in outside)


@each_lane
def test_the_four_modes_stand_side_by_side(js, lane):
    aligners = LANES[lane]
    steps = random_steps(23, aligners, "product", 0.7, 12)
    body = """
        const lane = decodeTrace(record);
        return lane.steps.map((_, i) => [modes(lane, i), modes(lane, i, {strengths: {one: 2}}), weights(lane, i)]);
    """
    for step, (own, stronger, weights) in zip(steps, js(body, record=record(steps, aligners)), strict=True):
        assert [mode["mode"] for mode in own] == list(MODES)
        assert own[0]["weights"] == weights
        for modes, asked in ((own, {}), (stronger, {"strengths": {"one": 2}})):
            for mode in modes:
                now = full(aligners, mode["mode"], asked)
                assert mode["lack"] == ""
                assert mode["token"] == decide(step, *now, 0.7)
                assert mode["weights"][: step["inside"]] == pytest.approx(distribution(step, *now, 0.7), abs=1e-5)


# By hand -------------------------------------------------------------------------------------------------------------


def by_hand(**changes) -> dict:
    """Three candidates: the proposal likes 10, the aligner 11, and the noise 12."""
    step = {
        "id": [11, 10, 12],
        "inside": 3,
        "log_p": np.log([0.3, 0.6, 0.1]),
        "log_q": {"one": np.log([0.6, 0.1, 0.3])},
        "log_q0": {"one": np.log([0.6, 0.2, 0.2])},
        "noise": np.zeros(3),
        "draws": np.array([1, 2, 0]),
        "weight": np.array([0.667, 0.222, 0.111]),
        "kl": {"one": 0.5},
        "mass": 1.0,
        "compose": 0.0,
        "token": 11,
        "base_token": 10,
    }
    return {**step, **changes}


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

TUNED = "This trace does not hold what two was tuned from, and ratio needs it."
BEFORE = "This answer was made before traces kept what a recut needs."
DRAWS = "This trace does not hold the draws that sis chooses from."


def test_ratio_cannot_be_had_of_an_aligner_whose_base_is_not_known(js):
    aligners = LANES["two"]
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
    aligners = LANES["one"]
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

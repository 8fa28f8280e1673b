"""Steps decided again by the page are those that brute force decides from design's formulas, over everything kept."""

import itertools
import math

import numpy as np
import pytest

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

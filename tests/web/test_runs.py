"""What-if against real runs of tiny models: the first token that a recut changes is the one that such a run changes."""

import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import product

import pytest

from ram_demo.decoding.decide import DecodingSettings, Lane, Weigher
from ram_demo.decoding.record import columns, from_record, to_record
from ram_demo.decoding.trace import Trace, first_difference
from tests.decoding.conftest import Bench

MODES = ("product", "par", "ratio", "sis")
SETTINGS = DecodingSettings(max_new_tokens=16, temperature=0.8, top_p=0.9, seed=3)
KEPT = 4  # few of the weightiest, so that a possible winner that was not kept would show
ALWAYS_SHUT = -1.0


@dataclass(frozen=True)
class Asked:
    """A lane in full: mode, and (aligner, strength, threshold) of each that weighs."""

    mode: str
    weighers: tuple[tuple[str, float, float | None], ...]

    def lane(self, bench: Bench, name: str) -> Lane:
        base = (bench.proposal, None)
        weighers = (Weigher(one, bench.seats[one], beta, tau, base) for one, beta, tau in self.weighers)
        return Lane(name, tuple(weighers), self.mode)

    def settings(self) -> dict:
        strengths = {name: beta for name, beta, _ in self.weighers}
        return {"mode": self.mode, "strengths": strengths, "taus": {name: tau for name, _, tau in self.weighers}}


def run(bench: Bench, lanes: list[Asked], settings: DecodingSettings, keep: int = KEPT) -> list[Trace]:
    """The trace of each lane, all decoded together."""
    made = [asked.lane(bench, str(n)) for n, asked in enumerate(lanes)]
    traces = bench.run(made, settings, keep=keep).traces
    return [traces[lane.name] for lane in made]


def recorded(trace: Trace, asked: Asked, settings: DecodingSettings) -> dict:
    aligners = [{"name": name, "beta": beta, "tau": tau, "revision": "r"} for name, beta, tau in asked.weighers]
    whole = asdict(settings) | {"lanes": {trace.lane: aligners}, "modes": {trace.lane: asked.mode}, "forced": []}
    return json.loads(json.dumps(to_record(replace(trace, settings=whole))))


def tokens(trace: Trace) -> list[int]:
    return [step.token for step in trace.steps]


def alone(name: str, strengths: tuple[float, ...], taus: tuple[float | None, ...]) -> list[Asked]:
    tried = [Asked(mode, ((name, beta, tau),)) for mode, beta, tau in product(MODES, strengths, taus)]
    return [*tried, Asked("product", ((name, 0.0, None),)), Asked("product", ((name, 1.0, ALWAYS_SHUT),))]


def composed() -> list[Asked]:
    strengths = [(0.0, 1.0), (1.0, 0.0), (0.3, 2.5), (2.5, 0.3), (10.0, 1.0), (1.0, 10.0), (0.0, 0.0)]
    taus = [(None, None), (0.5, None), (1.0, 0.3)]
    each = product(MODES, strengths, taus)
    return [Asked(mode, tuple(zip(("first", "second"), betas, gates, strict=True))) for mode, betas, gates in each]


ONE = Asked("product", (("first", 1.0, None),))
TWO = Asked("product", (("first", 1.0, None), ("second", 0.7, 0.5)))
GROUPS = {
    "one": (alone("first", (0.3, 1.0, 2.5, 10.0), (None, 0.4, 1.2)), 0.8),
    "one, at temperature 0": (alone("first", (0.3, 1.0, 10.0), (None, 0.6)), 0.0),
    "another model": (alone("other", (0.3, 2.5), (None, 2.7)), 0.8),
    "two": (composed(), 0.8),
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_first_change_is_that_of_a_real_run(js, bench, group):
    """Every lane of a group is recut with the settings of every other, its own among them."""
    lanes, temperature = GROUPS[group]
    settings = replace(SETTINGS, temperature=temperature)
    traces = run(bench, lanes, settings)
    body = """
        return records.map((record) => {
          const lane = decodeTrace(record);
          const cuts = [{}, ...tried].map((settings) => recut(lane, settings));
          return cuts.map(({ first, tokens, gated }) => [first, tokens[first] ?? null, gated]);
        });
    """
    records = [recorded(trace, asked, settings) for trace, asked in zip(traces, lanes, strict=True)]
    cuts = js(body, records=records, tried=[asked.settings() for asked in lanes])
    alike = 0
    for own, trace, of_lane in zip(lanes, traces, cuts, strict=True):
        assert of_lane[0][0] == -1, own
        for asked, again, (first, token, gated) in zip(lanes, traces, of_lane[1:], strict=True):
            at = first_difference(tokens(trace), tokens(again))
            assert first == (-1 if at is None else at), (own, asked)
            assert token == (None if at is None else again.steps[at].token), (own, asked)
            until = len(gated) if at is None else at + 1
            assert gated[:until] == [step.gated for step in again.steps[:until]]
            alike += at is None
    assert alike < 0.7 * len(lanes) ** 2
    assert {step.gated for trace in traces for step in trace.steps} == {True, False}


def test_weights_and_pushes_are_those_of_the_run(js, bench):
    """Over all of N, so that nothing is cut off: pi, and the push of the token drawn."""
    body = """
        const lane = decodeTrace(record);
        return lane.steps.map((step, i) => ({
          pi: weights(lane, i), was: step.weight, at: step.chosen, push: step.push, ...pushes(lane, i),
        }));
    """
    for mode, tau in product(MODES, (None, 0.5)):
        own = Asked(mode, (("first", 1.0, None), ("second", 0.7, tau)))
        (trace,) = run(bench, [own], SETTINGS, keep=0)
        for step in js(body, record=recorded(trace, own, SETTINGS)):
            assert step["pi"] == pytest.approx(step["was"], abs=1e-5)
            total, start = step["total"][step["at"]], step["start"][step["at"]]
            # A run measures its push against Pt, or against how often a token was drawn; `par` starts from neither.
            if mode == "sis":
                start -= math.log(SETTINGS.candidates)
            if mode != "par":
                assert total - start == pytest.approx(step["push"], abs=1e-4)


def test_parts_of_a_run_are_the_run(js, bench):
    """A forced beginning, then steps as they come, one or several at a time."""
    own = Asked("ratio", (("first", 1.0, 0.6), ("second", 0.7, None)))
    for asked in (own, Asked("product", ())):
        (trace,) = bench.run([asked.lane(bench, "0")], SETTINGS, keep=KEPT, forced=(90, 91, 12)).traces.values()
        whole = recorded(trace, asked, SETTINGS)
        names = [name for name, _, _ in asked.weighers] or ["base"]
        parts = [columns(trace.steps[a:b], names) for a, b in ((0, 1), (1, 2), (2, 7), (7, None))]
        body = """
            const lane = openTrace({ lane: whole.lane, settings: whole.settings });
            for (const part of parts) appendSteps(lane, part);
            return [lane, decodeTrace(whole)].map((each) => ({
              first: each.first,
              steps: each.steps.map((step) => ({ ...step, texts: step.texts, logQ: step.logQ, noise: step.noise })),
              cut: recut(each, { mode: "par", strengths: { first: 2 } }),
              why: each.steps.map((_, i) => why(each, i)),
            }));
        """
        streamed, at_once = js(body, whole=whole, parts=parts)
        assert streamed == at_once
        assert (streamed["first"], len(streamed["steps"])) == (3, SETTINGS.max_new_tokens - 3)


def test_an_answer_kept_before_there_were_versions_shows_its_numbers_and_cannot_be_recut(js, bench):
    for own in (ONE, TWO):
        (trace,) = run(bench, [own], SETTINGS)
        new = recorded(trace, own, SETTINGS)
        old = {key: new[key] for key in new if key not in ("version", "words", "steps", "candidates")}
        settings = {key: value for key, value in new["settings"].items() if key != "forced"}
        old |= {"settings": settings, "steps": [step.to_json() for step in trace.steps]}
        body = """
            const lane = decodeTrace(record);
            return [canRecut(lane), lane.steps.map((step) => [step.token, step.weight[step.chosen]]), why(lane, 0)];
        """
        read = to_record(from_record(json.loads(json.dumps(old))))
        lack, seen, words = js(body, record=json.loads(json.dumps(read)))
        assert lack == "This answer was made before traces kept what a recut needs."
        assert [token for token, _ in seen] == tokens(trace)
        listed = [{c.token: c.weight for c in step.candidates()}[step.token] for step in trace.steps]
        assert [weight for _, weight in seen] == pytest.approx(listed, abs=1e-6)
        assert len(words) >= 2


def test_at_strength_0_every_token_is_what_the_base_would_have_said(js, bench):
    (trace,) = run(bench, [TWO], SETTINGS)
    body = "return recut(decodeTrace(record), {strengths: {first: 0, second: 0}}).tokens"
    assert js(body, record=recorded(trace, TWO, SETTINGS)) == [step.base_token for step in trace.steps]

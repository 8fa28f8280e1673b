"""Lanes in lockstep on tiny models: against whole forwards, against themselves run alone, and against `generate`."""

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from ram_demo.decoding import sampling
from ram_demo.decoding.decide import DecodingSettings, Lane
from ram_demo.decoding.trace import Trace
from ram_demo.models.lean import LeanModel
from tests import tiny
from tests.decoding import oracle
from tests.decoding.conftest import PROMPT, Bench

MODES = ("product", "par", "ratio", "sis")
SETTINGS = DecodingSettings(max_new_tokens=14, temperature=0.8, top_p=0.9, seed=3)
NUMBERS = ("kl", "support", "entropy", "push")


def penalised(logits: np.ndarray, seen, penalty: float) -> np.ndarray:
    out = logits.copy()
    for token in set(seen):
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    return out


def check_step(step, context, lane: Lane, full_forward, settings: DecodingSettings) -> None:
    """Take the decision of one step again, in float64, from whole forwards over its context."""

    def speak(name: str) -> tuple[np.ndarray, np.ndarray]:
        raw = full_forward(name, context).double().numpy()[: tiny.BYTE_LEVEL_SIZE]
        return raw, penalised(raw, context, settings.repetition_penalty)

    raw_p, p_logits = speak("base")
    aligners, divergences = [], []
    for weigher in lane.weighers:
        raw_q, q_logits = speak(weigher.name)
        aligner = oracle.Aligner(q_logits, weigher.beta, None, p_logits)
        divergences.append(oracle.kl(raw_p, raw_q))
        if weigher.beta and (weigher.tau is None or divergences[-1] <= weigher.tau):
            aligners.append(aligner)
    members = oracle.nucleus(p_logits, settings.temperature_p, settings.top_p, settings.top_k)
    pt = oracle.restricted(oracle.softmax(p_logits, settings.temperature_p), members)
    counts = None
    if settings.mode == "sis":
        uniforms = sampling.uniforms(settings.seed, step.index, sampling.DRAWS, settings.candidates)
        drawn = np.searchsorted(np.cumsum(pt[members]), uniforms, side="right")
        counts = np.bincount(np.array(members)[drawn], minlength=len(pt))
    pi = oracle.distribution(p_logits, aligners, settings, counts)
    everyone = [speak(w.name)[1] for w in lane.weighers] or [p_logits]
    q = np.prod([oracle.softmax(logits, settings.temperature_q) for logits in everyone], axis=0)
    q /= q.sum()
    gumbel = sampling.SharedNoise(settings.seed, step.index, len(pt)).gumbel(torch.arange(len(pt))).numpy()

    with np.errstate(divide="ignore"):
        assert step.token == np.argmax(np.log(pi) + gumbel)
        base_pi = oracle.distribution(p_logits, (), settings)
        assert step.base_token == np.argmax(np.log(base_pi) + gumbel)
    assert step.kl == pytest.approx(max(divergences, default=0.0), abs=1e-4)
    shut = [w.tau is not None and d > w.tau for d, w in zip(divergences, lane.weighers, strict=True)]
    assert step.gated == (bool(shut) and all(shut))
    assert step.nucleus == len(members)
    assert step.support == pytest.approx(q[members].sum(), abs=1e-4)
    shown = [c.token for c in step.candidates()]
    assert sorted(shown) == sorted(members)
    for name, expected in (("p", pt), ("q", q), ("weight", pi)):
        np.testing.assert_allclose([getattr(c, name) for c in step.candidates()], expected[shown], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_cached_batched_decoding_is_full_forwards(bench, full_forward, mode):
    lanes = [
        bench.lane(),
        bench.lane(("first", 1.0)),
        bench.lane(("other", 0.7)),
        bench.lane(("first", 0.5), ("second", 1.5)),
    ]
    settings = replace(SETTINGS, mode=mode, temperature_p=1.1, temperature_q=0.9)
    run = bench.run(lanes, settings)
    for lane in lanes:
        context = list(PROMPT)
        for step in run.steps[lane.name]:
            check_step(step, context, lane, full_forward, settings)
            context.append(step.token)
    assert len({tuple(run.tokens(lane.name)) for lane in lanes}) > 2, "the lanes never parted, so little was tried"


def test_gated_steps_are_full_forwards_too(bench, full_forward):
    lane = bench.lane(("first", 1.0), tau=0.3)
    run = bench.run([lane], SETTINGS)
    assert 0 < run.traces["first"].gated_share < 1, "the threshold should part the steps"
    context = list(PROMPT)
    for step in run.steps["first"]:
        check_step(step, context, lane, full_forward, SETTINGS)
        context.append(step.token)
        if step.gated:
            assert (step.token, step.push) == (step.base_token, 0.0)


def assert_same(one, other, tolerance: float = 1e-5) -> None:
    assert [s.token for s in one] == [s.token for s in other]
    assert [s.base_token for s in one] == [s.base_token for s in other]
    # Of the last step the text depends on whether more was to come.
    assert [s.text for s in one[:-1]] == [s.text for s in other[:-1]]
    assert [s.gated for s in one] == [s.gated for s in other]
    for a, b in zip(one, other, strict=True):
        for name in NUMBERS:
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance)
        assert [c.token for c in a.candidates()] == [c.token for c in b.candidates()]
        for name in ("p", "q", "weight"):
            values = ([getattr(c, name) for c in s.candidates()] for s in (a, b))
            np.testing.assert_allclose(*values, atol=tolerance)


@pytest.mark.parametrize("engine", ["bench", "reference_bench"])
@pytest.mark.parametrize("mode", ["product", "sis"])
def test_lanes_together_are_lanes_alone(request, engine, mode):
    bench = request.getfixturevalue(engine)
    lanes = [bench.lane(("first", 1.0)), bench.lane(("second", 2.0)), bench.lane(("other", 1.0))]
    together = bench.run([bench.lane(), *lanes], SETTINGS, mode=mode)
    for lane in lanes:
        alone = bench.run([bench.lane(), lane], SETTINGS, mode=mode)
        for name in ("base", lane.name):
            assert_same(together.steps[name], alone.steps[name])
    single = bench.run([lanes[0]], SETTINGS, mode=mode)
    assert_same(together.steps["first"], single.steps["first"])


def test_both_engines_decide_alike(bench, reference_bench):
    runs = [
        b.run([b.lane(), b.lane(("first", 1.0)), b.lane(("first", 1.0), ("other", 0.5))], SETTINGS)
        for b in (bench, reference_bench)
    ]
    for name in runs[0].steps:
        assert_same(runs[0].steps[name], runs[1].steps[name], tolerance=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_strength_zero_is_the_base_token_for_token(bench, mode):
    run = bench.run([bench.lane(), bench.lane(("first", 0.0)), bench.lane(("other", 0.0))], SETTINGS, mode=mode)
    assert run.tokens("first") == run.tokens("other") == run.tokens("base")
    assert [s.push for s in run.steps["first"]] == [0.0] * SETTINGS.max_new_tokens
    assert any(s.kl > 0.1 for s in run.steps["first"]), "the aligner is watched all the same"


def test_strength_one_is_not_the_base(bench):
    run = bench.run([bench.lane(), bench.lane(("first", 1.0))], SETTINGS)
    assert run.tokens("first") != run.tokens("base")


def test_sis_with_one_candidate_is_the_base_token_for_token(bench):
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    run = bench.run(lanes, SETTINGS, mode="sis", candidates=1, temperature=1.0)
    assert run.tokens("first") == run.tokens("base")


def test_ratio_is_par_for_an_adapter_on_the_proposal(bench):
    ratio, par = (bench.run([bench.lane(("first", 1.0))], SETTINGS, mode=mode) for mode in ("ratio", "par"))
    assert_same(ratio.steps["first"], par.steps["first"], tolerance=1e-4)


def test_the_base_lane_is_the_same_whatever_runs_beside_it(bench):
    alone = bench.run([bench.lane()], SETTINGS)
    beside = bench.run([bench.lane(), bench.lane(("first", 1.0)), bench.lane(("other", 3.0))], SETTINGS, mode="par")
    assert_same(alone.steps["base"], beside.steps["base"])


def test_temperature_zero_is_greedy_as_transformers_does_it(bench, full_forward):
    run = bench.run([bench.lane()], SETTINGS, temperature=0.0, repetition_penalty=1.2)
    generated = full_forward.models["base"].generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT)),
        max_new_tokens=SETTINGS.max_new_tokens,
        do_sample=False,
        repetition_penalty=1.2,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert run.tokens("base") == generated[0, len(PROMPT) :].tolist()
    other_seed = bench.run([bench.lane()], SETTINGS, temperature=0.0, repetition_penalty=1.2, seed=99)
    assert other_seed.tokens("base") == run.tokens("base")


def test_the_same_seed_replays_and_another_differs(bench):
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    once, again, other = (bench.run(lanes, SETTINGS, seed=seed) for seed in (3, 3, 4))
    for name in ("base", "first"):
        assert_same(once.steps[name], again.steps[name], tolerance=0)
        assert once.tokens(name) != other.tokens(name)


# Ends ---------------------------------------------------------------------------------------------------------------


def ended(tokens: list[int], end_ids) -> list[int]:
    """Up to the first that ends, that one included."""
    first = next((i for i, token in enumerate(tokens) if token in end_ids), len(tokens) - 1)
    return tokens[: first + 1]


def only_said_by(name: str, run) -> int:
    """The first token of a lane that no other lane says."""
    others = {token for lane in run.steps if lane != name for token in run.tokens(lane)}
    return next(token for token in run.tokens(name) if token not in others)


def test_every_end_id_ends_its_lane_and_no_other(bench):
    lanes = [bench.lane(), bench.lane(("first", 1.0)), bench.lane(("second", 1.0)), bench.lane(("other", 1.0))]
    free = bench.run(lanes, SETTINGS)
    end_ids = frozenset({only_said_by("first", free), only_said_by("other", free)})
    expected = {lane.name: ended(free.tokens(lane.name), end_ids) for lane in lanes}
    assert len({len(tokens) for tokens in expected.values()}) == 3, "two lanes should end early, apart from each other"

    run = bench.run(lanes, SETTINGS, end_ids)
    for lane in lanes:
        tokens = expected[lane.name]
        assert run.tokens(lane.name) == tokens
        assert_same(run.steps[lane.name], free.steps[lane.name][: len(tokens)])
        trace = run.traces[lane.name]
        assert trace.done == ("eos" if tokens[-1] in end_ids else "length")
        assert trace.steps == tuple(run.steps[lane.name])
    assert {t.done for t in run.traces.values()} == {"eos", "length"}


def test_a_trace_comes_right_after_its_lanes_last_step(bench):
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    free = bench.run(lanes, SETTINGS)
    end_ids = frozenset({only_said_by("first", free)})
    events = bench.run(lanes, SETTINGS, end_ids).events
    at = next(i for i, event in enumerate(events) if isinstance(event, Trace))
    assert events[at].lane == "first"
    assert {step.lane for step in events[at - 1]} == {"base", "first"}
    assert {step.lane for step in events[at + 1]} == {"base"}


def test_text_is_what_the_tokens_say(bench):
    run = bench.run([bench.lane(), bench.lane(("first", 1.0))], SETTINGS, max_new_tokens=30)
    for name, trace in run.traces.items():
        whole = bench.tokenizer.decode(run.tokens(name), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert trace.text == whole == "".join(step.text for step in trace.steps)


def test_one_token_is_a_whole_answer(bench):
    run = bench.run([bench.lane(), bench.lane(("first", 1.0))], SETTINGS, max_new_tokens=1)
    assert [len(t.steps) for t in run.traces.values()] == [1, 1]
    assert {t.done for t in run.traces.values()} == {"length"}
    assert {t.tokens_per_s for t in run.traces.values()} == {0.0}


@pytest.mark.parametrize("keep", [1, 4])
def test_kept_candidates_are_the_weightiest_and_the_two_that_are_named(bench, keep):
    whole = bench.run([bench.lane(("first", 1.0))], SETTINGS)
    few = bench.run([bench.lane(("first", 1.0))], SETTINGS, keep=keep)
    for every, kept in zip(whole.steps["first"], few.steps["first"], strict=True):
        assert len(every.candidates()) == every.nucleus
        by_weight = sorted(every.candidates(), key=lambda c: -max(c.p, c.weight))
        named = {every.token, every.base_token}
        expected = {c.token for c in by_weight[:keep]} | named
        assert {c.token for c in kept.candidates(keep)} == expected
        weights = [c.weight for c in kept.candidates(keep)]
        assert weights == sorted(weights, reverse=True)


# Stop, and what a run costs -----------------------------------------------------------------------------------------


class Watched:
    """A model that counts its forwards and remembers, weakly, every cache that it made."""

    def __init__(self, model):
        self.model, self.rows, self.prefills, self.widths = model, [], 0, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def _remember(self, rows):
        self.rows.extend(weakref.ref(thing) for thing in (rows, rows.cache))
        return rows

    def prefill(self, ids, adapters, room, is_branch=False):
        self.prefills += 1
        self.widths.append(len(adapters))
        logits, rows = yield from self.model.prefill(ids, adapters, room, is_branch)
        return logits, self._remember(rows)

    def step(self, tokens, groups):
        self.widths.append(len(tokens))
        return self.model.step(tokens, groups)

    def select(self, rows, index):
        return self._remember(self.model.select(rows, index))

    def alive(self) -> int:
        return sum(ref() is not None for ref in self.rows)


@pytest.fixture
def watched(bench):
    """The bench with its proposal watched."""
    watched = Watched(bench.proposal)
    seats = {name: (watched if model is bench.proposal else model, a) for name, (model, a) in bench.seats.items()}
    copy = object.__new__(type(bench))
    copy.__dict__.update(bench.__dict__, proposal=watched, seats=seats)
    return copy


def test_one_forward_a_step_for_all_rows(watched):
    lanes = [watched.lane(), watched.lane(("first", 1.0)), watched.lane(("second", 1.0))]
    watched.run(lanes, SETTINGS)
    assert watched.proposal.prefills == 1
    assert len(watched.proposal.widths) == SETTINGS.max_new_tokens  # the prompt's, and one a token after the first
    # While all lanes agree they share their rows; once parted, base has one and each aligned lane two.
    assert watched.proposal.widths[0] == 3
    assert watched.proposal.widths[-1] == 5


def test_equal_lanes_share_their_rows(watched):
    watched.run([watched.lane(), watched.lane(("first", 0.0))], SETTINGS, mode="product")
    assert set(watched.proposal.widths) == {2}


@pytest.mark.parametrize("k", [0, 1, 5])
def test_stop_ends_every_lane_at_once(watched, k):
    stop = threading.Event()
    lanes = [watched.lane(), watched.lane(("first", 1.0))]
    running = watched.generator(lanes, SETTINGS, stop=stop)
    if k == 0:
        stop.set()
    for i, _ in enumerate(running, 1):
        if i >= k:
            break
    forwards = len(watched.proposal.widths)
    traces = []
    if k:
        stop.set()
        traces = list(running)
        assert [t.lane for t in traces] == ["base", "first"]
        assert len(watched.proposal.widths) <= forwards + 1
    else:
        traces = list(watched.generator(lanes, SETTINGS, stop=stop))
    assert all(isinstance(t, Trace) and t.done == "stopped" and len(t.steps) == k for t in traces)
    assert len(traces) == 2


def test_a_lane_stopped_before_its_first_token_has_sane_numbers(bench):
    stop = threading.Event()
    stop.set()
    (trace,) = bench.run([bench.lane()], SETTINGS, stop=stop).traces.values()
    assert (trace.text, trace.steps, trace.tokens_per_s) == ("", (), 0.0)
    assert trace.first_token_ms >= 0


def test_a_lane_that_had_ended_is_not_stopped_again(bench):
    stop = threading.Event()
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    end_ids = frozenset({only_said_by("first", bench.run(lanes, SETTINGS))})
    done = {}
    for item in bench.generator(lanes, SETTINGS, end_ids, stop):
        if isinstance(item, Trace):
            done[item.lane] = item.done
            stop.set()
    assert done == {"first": "eos", "base": "stopped"}


@pytest.mark.parametrize("way", ["closed", "stopped", "forgotten", "finished"])
def test_the_caches_are_freed(watched, way):
    stop = threading.Event()
    running = watched.generator([watched.lane(), watched.lane(("first", 1.0))], SETTINGS, stop=stop)
    for _ in range(4):
        next(running)
    assert watched.proposal.alive() > 0
    gc.disable()  # freed by themselves, not when the collector comes by
    try:
        if way == "closed":
            running.close()
        elif way == "stopped":
            stop.set()
            list(running)
        elif way == "forgotten":
            del running
        else:
            list(running)
        assert watched.proposal.alive() == 0
    finally:
        gc.enable()


def test_the_models_are_as_they_were_after_a_run_is_cut_short(bench):
    before = bench.run([bench.lane(("first", 1.0))], SETTINGS)
    running = bench.generator([bench.lane(("first", 1.0)), bench.lane(("other", 1.0))], SETTINGS)
    next(running)
    running.close()
    assert_same(before.steps["first"], bench.run([bench.lane(("first", 1.0))], SETTINGS).steps["first"], tolerance=0)


def test_two_runs_interleaved_do_not_meet(bench):
    """Rows belong to a run; the models hold none of it."""
    lanes = [bench.lane(), bench.lane(("first", 1.0))]
    alone = bench.run(lanes, SETTINGS)
    a, b = bench.generator(lanes, SETTINGS), bench.generator(lanes, SETTINGS, seed=8)
    tokens = []
    for mine, _ in zip(a, b, strict=False):
        if not isinstance(mine, Trace):
            tokens.append([step.token for step in mine])
    assert [t[1] for t in tokens] == alone.tokens("first")


# Branches -----------------------------------------------------------------------------------------------------------


def test_a_forced_beginning_is_gone_on_from_as_if_it_had_been_said(bench, full_forward):
    """Against whole forwards over prompt, forced tokens and what came: positions, noise and penalty go on."""
    lane = bench.lane(("first", 1.0))
    forced = (90, 91, 12)
    run = bench.run([bench.lane(), lane], SETTINGS, forced=forced)
    assert [step.index for step in run.steps["first"]] == list(range(3, SETTINGS.max_new_tokens))
    context = [*PROMPT, *forced]
    for step in run.steps["first"]:
        check_step(step, context, lane, full_forward, SETTINGS)
        context.append(step.token)
    assert run.traces["first"].text == bench.tokenizer.decode([*forced, *run.tokens("first")])


def test_forcing_what_would_have_been_said_changes_nothing(bench):
    whole = bench.run([bench.lane(), bench.lane(("first", 1.0))], SETTINGS)
    said = whole.tokens("first")
    branch = bench.run([bench.lane(("first", 1.0))], SETTINGS, forced=said[:5])
    assert branch.tokens("first") == said[5:]
    assert branch.traces["first"].text == whole.traces["first"].text


def test_a_branch_reads_nothing_that_was_kept(folders, monkeypatch):
    """A branch from either lane's answer reads its last token alone, through both of that lane's seats."""
    bench = Bench(folders, LeanModel)
    whole = bench.run([bench.lane(), bench.lane(("first", 1.0))], SETTINGS)
    fresh = Bench(folders, LeanModel)
    read = []
    forward = bench.proposal._forward

    def count(parts, is_prompt):
        if is_prompt:
            read.append([tokens.shape[1] for tokens, _ in parts])
        return forward(parts, is_prompt)

    monkeypatch.setattr(bench.proposal, "_forward", count)
    forced = [*whole.tokens("first")[:6], 99]
    branch = bench.run([bench.lane(("first", 1.0))], SETTINGS, forced=forced)
    assert read == [[1]], "one token, through the bare model and the adapter together"
    assert branch.tokens("first") == fresh.run([fresh.lane(("first", 1.0))], SETTINGS, forced=forced).tokens("first")

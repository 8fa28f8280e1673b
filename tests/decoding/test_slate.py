"""What is kept of a step suffices to decide it again: against every candidate of the nucleus, decided in float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ram_demo.decoding.slate import OUTSIDE, possible_winners
from ram_demo.decoding.trace import Slate
from tests import tiny
from tests.decoding.conftest import PROMPT
from tests.decoding.oracle import softmax

STRENGTHS = (0, 0.05, 0.3, 0.7, 1, 1.5, 2.5, 5, 10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 80), k=st.integers(1, 3), temperature=st.sampled_from([0, 0.7, 1.3])
)
def test_no_strengths_choose_a_candidate_that_was_not_kept(seed, n, k, temperature):
    random = np.random.default_rng(seed)
    log_pt = np.log(random.dirichlet(np.full(n, 0.3)) + 1e-12)
    log_q, log_q0 = (np.log(random.dirichlet(np.full(n, 0.3), k) + 1e-12) for _ in range(2))
    chance = temperature * random.gumbel(size=n)
    draws = random.multinomial(16, np.exp(log_pt) / np.exp(log_pt).sum())
    kept = possible_winners(log_pt, chance, draws, log_q, log_q0)
    with np.errstate(divide="ignore"):
        for beta in itertools.product(STRENGTHS, repeat=k):
            push = np.array(beta) @ log_q
            weights = (log_pt + push, push, np.log(draws) + push, log_pt + push - np.array(beta) @ log_q0)
            for weight in weights if any(beta) else weights[:1]:  # where nothing weighs, it is the base's
                assert int(np.argmax(weight + chance)) in kept
    assert len(kept) <= n


def test_few_of_a_wide_nucleus_can_win():
    random = np.random.default_rng(0)
    log_pt, log_q = random.normal(size=(2, 1000)) * 3
    draws = np.zeros(1000)
    draws[:5] = 1
    assert len(possible_winners(log_pt, random.gumbel(size=1000), draws, log_q[None], None)) < 40


@pytest.fixture(scope="module")
def run(bench):
    return bench.run([bench.lane(), bench.lane(("first", 1.0), ("other", 0.5))], keep=6)


def test_columns_are_the_models_own_words(run, full_forward):
    """Against whole forwards: P over the vocabulary, Q of each aligner, and what it was before it was tuned."""
    for lane, names in (("base", ["base"]), ("first+other", ["first", "other"])):
        context = list(PROMPT)
        for step in run.steps[lane][:6]:
            slate: Slate = step.slate
            ids = list(slate.ids)

            def log_q(name, context=context, ids=ids):
                raw = full_forward(name, context).double().numpy()[: tiny.BYTE_LEVEL_SIZE]
                seen = np.array(sorted(set(context)))
                raw[seen] = np.where(raw[seen] > 0, raw[seen] / 1.05, raw[seen] * 1.05)
                return np.log(softmax(raw, 1.0))[ids]

            np.testing.assert_allclose(slate.log_p, log_q("base"), atol=1e-3)
            for mine, name in zip(slate.log_q, names, strict=True):
                np.testing.assert_allclose(mine, log_q(name), atol=1e-3)
            for before in slate.log_q0 if lane != "base" else ():
                np.testing.assert_allclose(before, log_q("base"), atol=1e-3)
            context.append(step.token)


def test_first_come_those_in_the_nucleus_then_what_q_wants_outside(run):
    for step in run.steps["first+other"]:
        slate = step.slate
        assert 0 < slate.inside <= len(slate.ids) == len(slate.texts) == len(set(slate.ids))
        assert list(slate.weight[: slate.inside]) == sorted(slate.weight[: slate.inside], reverse=True)
        beyond = slice(slate.inside, None)
        assert set(slate.weight[beyond]) <= {0.0} and len(slate.ids[beyond]) <= OUTSIDE
        together = np.sum(slate.log_q, 0)[beyond]
        assert list(together) == sorted(together, reverse=True)
        assert {step.token, step.base_token} <= set(slate.ids[: slate.inside])


def test_mass_turns_p_into_what_the_nucleus_offers(bench):
    whole = bench.run([bench.lane(("first", 1.0))], keep=0)
    for step in whole.steps["first"]:
        assert step.slate.inside == step.nucleus
        p = np.exp(step.slate.log_p[: step.nucleus])
        assert p.sum() == pytest.approx(step.mass, rel=1e-4)
        assert sum(c.p for c in step.candidates()) == pytest.approx(1, abs=1e-4)


def test_ranks_count_all_of_the_nucleus(bench):
    for step in bench.run([bench.lane(("first", 1.0))], keep=0).steps["first"]:
        listed = {c.token: c for c in step.candidates()}
        mine = listed[step.token]
        assert step.rank_p == 1 + sum(c.p > mine.p for c in listed.values())
        assert step.rank == 1 + sum(c.weight > mine.weight for c in listed.values())

"""What `decide` draws, against the distribution worked out by enumeration on a vocabulary of six tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ram_demo.decoding.decide import DecodingSettings, Lane, Voices, Weigher, decide
from ram_demo.decoding.sampling import SharedNoise
from tests.decoding import oracle

P_VALUE = 1e-4
NOTHING_SEEN = torch.zeros(0, dtype=torch.int64)

P = np.array([1.2, 0.4, 0.9, -0.7, -1.5, 0.1])
STRONG = np.array([-0.6, 1.9, 0.2, 1.1, -0.3, -2.0])
MILD = np.array([0.9, 0.8, 0.3, -0.2, -1.9, 0.6])
STRONG_BASE = np.array([0.3, 0.5, 1.0, -0.9, -0.2, -0.4])
MILD_BASE = np.array([1.0, 0.1, 0.7, -0.8, -1.2, 0.4])

PLAIN = DecodingSettings(temperature=1.0, top_p=1.0, repetition_penalty=1.0, candidates=5)
SETTINGS = {
    "plain": PLAIN,
    "temperatures": replace(PLAIN, temperature=0.6, temperature_p=1.4, temperature_q=0.7),
    "top_p": replace(PLAIN, top_p=0.8, temperature_p=0.9),
    "top_k": replace(PLAIN, top_k=3, temperature=1.3),
}
ONE = (oracle.Aligner(STRONG, 1.0, None, STRONG_BASE),)
HALF = (oracle.Aligner(STRONG, 0.5, None, STRONG_BASE),)
TWO = (oracle.Aligner(STRONG, 0.8, None, STRONG_BASE), oracle.Aligner(MILD, 1.7, None, MILD_BASE))
# The strong one stands about 1 nat away and the mild one 0.1: the threshold gates the first alone.
ONE_GATED = tuple(replace(aligner, tau=0.5) for aligner in TWO)
ALL_GATED = tuple(replace(aligner, tau=0.01) for aligner in TWO)
ALIGNERS = {"one": ONE, "half": HALF, "two": TWO, "one gated": ONE_GATED, "all gated": ALL_GATED, "none": ()}

CASES = [
    *((mode, settings, "one") for mode in ("product", "par", "ratio", "sis") for settings in SETTINGS),
    *((mode, "temperatures", who) for mode in ("product", "par", "ratio", "sis") for who in ("two", "one gated")),
    *((mode, "top_p", "half") for mode in ("product", "par", "ratio", "sis")),
    ("product", "temperatures", "all gated"),
    ("par", "top_k", "all gated"),
    ("product", "temperatures", "none"),
]


def decided(lane, said, proposal, seen, position, settings):
    """One choice, where every seat says what is given."""
    noise = SharedNoise(settings.seed, position, len(P))
    return decide(lane, Voices(said.__getitem__, proposal, seen, noise, settings))


def decisions(settings: DecodingSettings, aligners, seeds):
    """The choices of a lane whose models say just these logits, one for each seed."""
    logits = {"proposal": P}
    weighers = []
    for i, aligner in enumerate(aligners):
        logits |= {f"q{i}": aligner.logits, f"q0{i}": P if aligner.base_logits is None else aligner.base_logits}
        weighers.append(Weigher(f"aligner{i}", f"q{i}", aligner.beta, aligner.tau, f"q0{i}"))
    said = {seat: torch.tensor(value, dtype=torch.float32) for seat, value in logits.items()}
    lane = Lane("lane", tuple(weighers))
    return [decided(lane, said, "proposal", NOTHING_SEEN, 3, replace(settings, seed=seed)) for seed in seeds]


def decision(settings: DecodingSettings, aligners, seed: int):
    return decisions(settings, aligners, [seed])[0]


def frequencies(settings: DecodingSettings, aligners) -> np.ndarray:
    # What the other modes weigh is compared exactly as well; of `sis` only frequencies tell.
    draws = range(1000 if settings.mode == "sis" else 400)
    return np.bincount([choice.token for choice in decisions(settings, aligners, draws)], minlength=len(P))


def over_vocabulary(choice) -> np.ndarray:
    pi = np.zeros(len(P))
    pi[choice.ids.numpy()] = choice.log_pi.exp().numpy()
    return pi


@pytest.mark.parametrize(("mode", "settings", "who"), CASES)
def test_draws_follow_the_enumerated_distribution(mode, settings, who):
    settings, aligners = replace(SETTINGS[settings], mode=mode), ALIGNERS[who]
    expected = oracle.distribution(P, aligners, settings)
    assert oracle.p_value(frequencies(settings, aligners), expected) > P_VALUE


@pytest.mark.parametrize("settings", ["plain", "temperatures"])
@pytest.mark.parametrize("n", [1, 2, 50])
def test_sis_follows_the_enumeration_of_all_its_draws(n, settings):
    settings = replace(SETTINGS[settings], mode="sis", candidates=n, top_k=3 if n > 5 else 0)
    expected = oracle.distribution(P, ONE, settings)
    assert oracle.p_value(frequencies(settings, ONE), expected) > P_VALUE


@pytest.mark.parametrize(("mode", "settings", "who"), [case for case in CASES if case[0] != "sis"])
def test_the_weights_shown_are_the_distribution(mode, settings, who):
    settings, aligners = replace(SETTINGS[settings], mode=mode), ALIGNERS[who]
    shown = over_vocabulary(decision(settings, aligners, seed=1))
    np.testing.assert_allclose(shown, oracle.distribution(P, aligners, settings), atol=2e-6)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_weights_of_sis_count_duplicates(beta):
    """At T = 1, pi / Q^beta is proportional to how often each was drawn: whole numbers that add up to n."""
    aligner = replace(ONE[0], beta=beta)
    saw_duplicate = False
    for seed in range(40):
        pi = over_vocabulary(decision(replace(PLAIN, mode="sis", candidates=5), (aligner,), seed))
        counts = pi / oracle.softmax(STRONG) ** beta
        counts *= 5 / counts.sum()
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
        saw_duplicate |= bool((np.round(counts) > 1).any())
    assert saw_duplicate


def test_the_enumeration_of_sis_agrees_with_its_limits():
    """The oracle itself: one draw is Pt, many draws approach the product, and both ways to enumerate agree."""
    settings = replace(PLAIN, mode="sis", top_k=3)
    pt = oracle.distribution(P, (), settings)
    one = oracle.distribution(P, ONE, replace(settings, candidates=1))
    np.testing.assert_allclose(one, pt, atol=1e-12)
    many = oracle.distribution(P, ONE, replace(settings, candidates=60))
    product = oracle.distribution(P, ONE, replace(settings, mode="product"))
    assert np.abs(many - product).max() < 0.02 < np.abs(one - product).max()
    by_sequence = sum(c * q for c, q in oracle.draws_by_enumeration(pt, 4))
    np.testing.assert_allclose(by_sequence, sum(c * q for c, q in oracle.draws_by_counts(pt, 4)), atol=1e-12)


def test_sis_with_one_draw_is_the_base_token_for_token():
    settings = replace(PLAIN, mode="sis", candidates=1, top_p=0.9, temperature_p=1.2)
    tokens = [(c.token, c.base_token) for c in (decision(settings, ONE, seed) for seed in range(200))]
    assert all(token == base for token, base in tokens)
    assert len({token for token, _ in tokens}) > 3


def test_sis_with_one_draw_pushes_nothing():
    settings = replace(PLAIN, mode="sis", candidates=1)
    assert all(decision(settings, ONE, seed).push == pytest.approx(0.0, abs=1e-6) for seed in range(5))


def test_the_draws_of_sis_do_not_depend_on_the_noise_they_are_chosen_with():
    """Were they one randomness, the token drawn most by the noise would be chosen too often."""
    settings = replace(PLAIN, mode="sis", candidates=2)
    aligner = (oracle.Aligner(np.zeros(6)),)  # says nothing: two draws and a fair choice between them is Pt again
    assert oracle.p_value(frequencies(settings, aligner), oracle.softmax(P)) > P_VALUE


@pytest.mark.parametrize("mode", ["product", "par", "ratio", "sis"])
def test_strength_zero_is_the_base(mode):
    settings = replace(SETTINGS["temperatures"], mode=mode)
    for seed in range(50):
        base = decision(settings, (), seed)
        idle = decision(settings, (replace(ONE[0], beta=0.0),), seed)
        assert idle.token == base.token == idle.base_token
        assert torch.equal(idle.log_pi, base.log_pi)
        assert idle.push == 0


def test_one_of_strength_zero_leaves_the_other_alone():
    for seed in range(50):
        alone = decision(PLAIN, ONE, seed)
        beside = decision(PLAIN, (ONE[0], replace(TWO[1], beta=0.0)), seed)
        assert beside.token == alone.token
        assert torch.equal(beside.log_pi, alone.log_pi)


@pytest.mark.parametrize("mode", ["product", "par", "ratio"])
def test_temperature_zero_takes_the_likeliest(mode):
    settings = replace(PLAIN, mode=mode, temperature=0.0)
    likeliest = oracle.distribution(P, ONE, replace(settings, temperature=1.0)).argmax()
    assert {decision(settings, ONE, seed).token for seed in range(30)} == {likeliest}
    assert {decision(settings, (), seed).token for seed in range(30)} == {P.argmax()}


def test_ratio_is_par_for_an_adapter_on_the_proposal():
    """At T_P = T_Q = 1 and strength 1, where Q0 is P_M itself."""
    aligner = (oracle.Aligner(STRONG, 1.0, None, P),)
    for seed in range(50):
        a, b = (decision(replace(PLAIN, mode=mode, top_p=0.9), aligner, seed) for mode in ("ratio", "par"))
        assert a.token == b.token
        torch.testing.assert_close(a.log_pi, b.log_pi)


def test_product_of_equal_halves_is_the_whole():
    """Two of strength 1/2 that say the same are one of strength 1 (formula 6)."""
    halves = decision(PLAIN, (HALF[0], HALF[0]), seed=2)
    torch.testing.assert_close(halves.log_pi, decision(PLAIN, ONE, seed=2).log_pi)


def test_a_gated_step_draws_from_the_nucleus_and_not_from_all():
    """Falling back to unfiltered P_M is a known trap: with top_k = 2 it would say a third token in 4 steps of 10."""
    settings = replace(PLAIN, top_k=2, temperature_p=1.5)
    choices = decisions(settings, (replace(ONE[0], tau=0.0),), range(400))
    assert all(c.gated for c in choices)
    observed = np.bincount([c.token for c in choices], minlength=6)
    members = oracle.nucleus(P, 1.5, 1.0, 2)
    expected = oracle.restricted(oracle.softmax(P, 1.5), members)
    assert oracle.p_value(observed, expected) > P_VALUE


def test_each_of_several_is_gated_for_itself():
    choice = decision(PLAIN, ONE_GATED, seed=1)
    assert [m.gated for m in choice.monitors] == [True, False]
    assert not choice.gated
    assert [m.kl for m in choice.monitors] == pytest.approx([oracle.kl(P, STRONG), oracle.kl(P, MILD)], abs=1e-6)
    assert decision(PLAIN, ALL_GATED, seed=1).gated


def test_the_gate_looks_at_raw_logits_whatever_the_settings():
    """KL is of temperature 1 and of unpenalised logits, so a calibrated threshold means the same in every setting."""
    said = {"proposal": torch.tensor(P, dtype=torch.float32), "q0": torch.tensor(STRONG, dtype=torch.float32)}
    settings = replace(SETTINGS["temperatures"], repetition_penalty=1.5, top_k=2)
    lane = Lane("lane", (Weigher("a", "q0", 1.0, None),))
    choice = decided(lane, said, "proposal", torch.tensor([0, 1]), 0, settings)
    assert choice.monitors[0].kl == pytest.approx(oracle.kl(P, STRONG), abs=1e-6)


def test_support_is_what_the_aligner_has_inside_the_nucleus():
    settings = replace(SETTINGS["temperatures"], top_k=3)
    choice = decision(settings, ONE, seed=1)
    members = oracle.nucleus(P, 1.4, 1.0, 3)
    assert choice.support == pytest.approx(oracle.softmax(STRONG, 0.7)[members].sum(), abs=1e-6)
    assert choice.ids.tolist() == members
    np.testing.assert_allclose(choice.log_q[0][choice.ids].exp(), oracle.softmax(STRONG, 0.7)[members], rtol=1e-5)
    np.testing.assert_allclose(
        choice.log_pt.exp(), oracle.restricted(oracle.softmax(P, 1.4), members)[members], rtol=1e-5
    )


def test_push_is_what_the_aligner_did_to_the_token_drawn():
    settings = replace(SETTINGS["temperatures"], mode="product")
    pt = oracle.softmax(P, 1.4)
    pi = oracle.distribution(P, ONE, replace(settings, temperature=1.0))
    for seed in range(5):
        choice = decision(settings, ONE, seed)
        assert choice.push == pytest.approx(np.log(pi[choice.token] / pt[choice.token]), abs=1e-5)


def test_every_lane_is_told_the_same_base_token():
    settings = SETTINGS["temperatures"]
    for seed in range(50):
        base = decision(settings, (), seed).token
        assert {decision(settings, who, seed).base_token for who in (ONE, TWO, ONE_GATED, ALL_GATED)} == {base}


def test_the_penalty_reaches_everyone_who_speaks():
    """All logits of a seen token are scaled, l_P, l_Q and l_Q0 alike, before any softmax."""
    seen, penalty = [1, 3], 1.6
    settings = replace(PLAIN, mode="ratio", repetition_penalty=penalty)

    def scaled(logits):
        out = logits.copy()
        out[seen] = [v / penalty if v > 0 else v * penalty for v in logits[seen]]
        return out

    said = {"p": P, "q": STRONG, "q0": STRONG_BASE}
    tensors = {seat: torch.tensor(value, dtype=torch.float32) for seat, value in said.items()}
    lane = Lane("lane", (Weigher("a", "q", 1.0, None, "q0"),))
    choice = decided(lane, tensors, "p", torch.tensor(seen), 0, settings)
    aligner = oracle.Aligner(scaled(STRONG), 1.0, None, scaled(STRONG_BASE))
    expected = oracle.distribution(scaled(P), (aligner,), settings)
    np.testing.assert_allclose(over_vocabulary(choice), expected, atol=2e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_aligner_whose_logits_are_no_numbers_fails_loudly(bad):
    broken = STRONG.copy()
    broken[2] = bad
    with pytest.raises(FloatingPointError):
        decision(PLAIN, (oracle.Aligner(broken),), seed=1)

"""The sweep against plain sums over whole forwards, and what is recommended, by hand."""

import threading

import pytest
import torch

from ram_demo.errors import UserError
from ram_demo.evaluation import calibrate
from ram_demo.evaluation.calibrate import BETAS, TAUS, Point
from ram_demo.evaluation.likelihood import Text
from ram_demo.models.aligners import Card
from tests import tiny_workbench
from tests.evaluation.test_likelihood import whole

one_thread = tiny_workbench.one_thread
TEXTS = [Text((5, 6, 7), (8, 9, 2)), Text((4,), (11, 3, 2, 8, 5, 2))]


def silent(words: str, share: float) -> None:
    pass


def expected(plain, beta: float, tau: float | None) -> tuple[float, float]:
    """Formulas 2 and 7 over the whole vocabulary, token by token; (P Q^beta)^(1 / (1 + beta)), then normalised."""
    likely, gated = [], []
    for text in TEXTS:
        for log_p, log_q, token in zip(whole(plain[0], text), whole(plain[1], text), text.answer, strict=True):
            kl = float((log_p.exp() * (log_p - log_q)).sum())
            gated.append(tau is not None and kl > tau)
            pi = (log_p.exp() * log_q.exp() ** beta) ** (1 / (1 + beta))
            likely.append(float(log_p[token]) if gated[-1] else float((pi / pi.sum())[token].log()))
    return sum(likely) / len(likely), sum(gated) / len(gated)


def test_likelihoods_and_gates_are_the_formulas(bench, plain):
    found = calibrate.calibrate(bench, "a", TEXTS, silent)
    assert found.base_log_likelihood == pytest.approx(expected(plain, 0.0, None)[0], abs=1e-3)
    assert {(p.beta, p.tau) for p in found.points} == {(b, None) for b in BETAS} | {(found.beta, t) for t in TAUS}
    for point in found.points:
        likely, gated = expected(plain, point.beta, point.tau)
        assert point.log_likelihood == pytest.approx(likely, abs=1e-3)
        assert point.gated_there == pytest.approx(gated, abs=1e-3)
    assert any(0 < p.gated_there < 1 for p in found.points), "the sweep meets gates that part the tokens"


def test_without_answers_the_cards_strength_stands(bench):
    found = calibrate.calibrate(bench, "a", [Text((5, 6), ()), Text((7,), ())], silent)
    assert found.beta == 1.0 and found.base_log_likelihood is None
    assert all(p.log_likelihood is None and p.tokens > 0 for p in found.points)


def test_nothing_to_ask_and_stopping_are_said(bench):
    with pytest.raises(UserError, match="no held-out"):
        calibrate.calibrate(bench, "a", [], silent)
    stop = threading.Event()
    stop.set()
    with pytest.raises(UserError, match="stopped"):
        calibrate.calibrate(bench, "a", TEXTS, silent, stop)


def point(beta, tau, likely, gated=0.0) -> Point:
    return Point(beta, tau, likely, gated, gated, 1.0, 10, 1.0, 0.5, 0.5, 20.0)


@pytest.mark.parametrize(
    ("likely", "strength"),
    [
        ({0.0: -4.0, 0.5: -3.0, 1.0: -2.5, 1.5: -2.09, 2.0: -2.0, 3.0: -2.05}, 1.5),  # 95% of the gain
        ({0.0: -4.0, 0.5: -2.1, 1.0: -2.0, 1.5: -2.2, 2.0: -2.5, 3.0: -3.0}, 0.5),
        ({0.0: -4.0, 0.5: -4.1, 1.0: -4.2, 1.5: -4.3, 2.0: -4.4, 3.0: -4.5}, 0.5),  # nothing is gained
    ],
)
def test_the_least_strength_with_nearly_all_the_gain(likely, strength):
    assert calibrate._strength(likely) == strength


def test_the_tightest_gate_that_costs_nothing():
    off = point(2.0, None, -2.0)
    gates = [point(2.0, 0.1, -2.5, 0.8), point(2.0, 0.5, -2.015, 0.1), point(2.0, 1.0, -2.0, 0.01)]
    assert calibrate._gate([off, *gates], 2.0) == 0.5
    assert calibrate._gate([off, gates[0]], 2.0) is None
    unknown = [point(2.0, tau, None, share) for tau, share in ((None, 0), (0.1, 0.3), (0.5, 0.04), (1.0, 0.0))]
    assert calibrate._gate(unknown, 2.0) == 0.5


def test_the_card_takes_what_was_found_and_the_table_shows_it(bench):
    found = calibrate.calibrate(bench, "a", TEXTS, silent)
    card = calibrate.in_card(Card("a", "words", mode="product"), found)
    assert (card.beta, card.tau, card.description) == (found.beta, found.tau, "words")
    assert len(card.calibration["points"]) == len(found.points)
    lines = calibrate.as_text(found).splitlines()
    assert len(lines) == len(found.points) + 2 and lines[-1].startswith(f"recommended: strength {found.beta:g}")


def test_equal_models_at_the_undoing_temperature_change_nothing():
    log_p = torch.log_softmax(torch.tensor([1.0, 2.0, -1.0]), -1)
    one = torch.ones((), dtype=torch.int64)
    for mode, unsharpened in calibrate.UNSHARPENED.items():
        pi = calibrate.log_weights(mode, log_p, [log_p], [1.5], [log_p], one)
        torch.testing.assert_close(calibrate.sharpen(pi, unsharpened(1.5)), log_p)

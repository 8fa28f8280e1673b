"""Preferences against sums over whole forwards of transformers' own models."""

from dataclasses import replace

import pytest

from ram_demo.errors import UserError
from ram_demo.evaluation import preference
from ram_demo.evaluation.likelihood import Text
from ram_demo.evaluation.preference import Pair
from tests import tiny_workbench
from tests.evaluation.test_likelihood import whole

one_thread = tiny_workbench.one_thread
PAIRS = [Pair((5, 6), (n, 9, 2), (n + 1, 4 + n % 3, 11, 2)) for n in range(8, 20)]


def margins(plain, beta: float) -> tuple[list, list, list]:
    """log-likelihood of the chosen answer less that of the rejected one under P, Q and (P Q^beta)^(1 / (1 + beta))."""
    p_margins, q_margins, pi_margins = [], [], []
    for pair in PAIRS:
        sums = []
        for answer in (pair.chosen, pair.rejected):
            text, p, q, pi = Text(pair.prompt, answer), 0.0, 0.0, 0.0
            for log_p, log_q, token in zip(whole(plain[0], text), whole(plain[1], text), answer, strict=True):
                weights = (log_p.exp() * log_q.exp() ** beta) ** (1 / (1 + beta))
                p, q = p + float(log_p[token]), q + float(log_q[token])
                pi += float((weights / weights.sum())[token].log())
            sums.append((p, q, pi))
        for found, better, worse in zip((p_margins, q_margins, pi_margins), *sums, strict=True):
            found.append(better - worse)
    return p_margins, q_margins, pi_margins


def share(values) -> float:
    return round(sum(value > 0 for value in values) / len(values), 3)


def test_shares_are_those_of_whole_forwards(bench, plain):
    told = []
    found = preference.measure(bench, "a", PAIRS, lambda words, share: told.append(share))
    assert told[0] == 0 and told == sorted(told) and 0.9 < told[-1] < 1
    p, q, pi = margins(plain, 1.0)
    assert found == {
        "pairs": len(PAIRS), "base": share(p), "aligner": share(q), "aligned": share(pi),
        "moved": share([b - a for a, b in zip(p, q, strict=True)]),
    }  # fmt: skip
    assert len({found["base"], found["aligner"], found["moved"]}) > 1, "the pairs tell the models apart"


def test_turned_round_every_pair_counts_the_other_way(bench):
    found = preference.measure(bench, "a", PAIRS)
    turned = preference.measure(bench, "a", [replace(p, chosen=p.rejected, rejected=p.chosen) for p in PAIRS])
    for who in ("base", "aligner", "aligned", "moved"):
        assert turned[who] == pytest.approx(1 - found[who], abs=1e-3)


def test_no_pairs_are_said(bench):
    with pytest.raises(UserError, match="no pairs"):
        preference.measure(bench, "a", [])

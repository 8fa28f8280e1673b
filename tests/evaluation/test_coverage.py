"""Variety of answers, against values that are known for the ends of the scale, and sacrebleu's own worked example."""

import pytest

from ram_demo.evaluation import coverage


def test_equal_answers_are_no_variety():
    found = coverage.measure([[1, 2, 3, 4, 5]] * 4, ["one two three four five"] * 4)
    assert found["answers"] == 4 and found["self_bleu"] == 100
    assert (found["distinct_1"], found["distinct_2"]) == (0.25, 0.25)


def test_answers_that_share_nothing_are_all_variety():
    found = coverage.measure([[1, 2], [3, 4]], ["one two three four", "five six seven eight"])
    assert found["self_bleu"] == 0 and found["distinct_1"] == 1


def test_self_bleu_is_the_mean_over_each_against_the_rest():
    # a against b: all four unigrams, three bigrams, two trigrams, one 4-gram of a are in b; b is one word longer, so
    # that a is punished for brevity, exp(1 - 5/4). b against a: 4/5, 3/4, 2/3, 1/2, and none for brevity.
    a, b = "the cat sat down", "the cat sat down today"
    of_a, of_b = 100 * 2.718281828 ** (1 - 5 / 4), 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert coverage.self_bleu([a, b]) == pytest.approx((of_a + of_b) / 2, abs=0.01)
    assert coverage.self_bleu([a]) == coverage.self_bleu(["", " "]) == 0

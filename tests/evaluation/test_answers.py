"""What is counted in answers, against numbers worked out by hand."""

import pytest

from ram_demo.decoding.trace import Step, Trace
from ram_demo.evaluation import answers


def trace(text: str, tokens: int, done: str) -> Trace:
    steps = tuple(Step("a", i, i, "", 0.0, False, 1, 1.0, 0.0, i, 0.0, 1.0) for i in range(tokens))
    return Trace("a", done, text, 1.0, 1.0, {"seed": 1}, steps)


def test_medians_and_shares():
    traces = [
        trace("Ahoy, matey!", 4, "eos"),
        trace("Hello there, you all", 10, "length"),
        trace("Ye'll see. I'm sorry.", 90, "eos"),
    ]
    assert answers.summarise(traces, ["ahoy", "ye"]) == {
        "median_tokens": 10,
        "median_words": 4,
        "ended_by_itself": 0.667,
        "ended_within_80": 0.333,
        "one_sentence_of_30_words": 0.333,
        "refused": 0.333,
        "repetition": 0.0,
        "distinct_1": round(90 / 104, 3),  # 0 to 3 come three times, 4 to 9 twice
        "distinct_2": round(89 / 101, 3),
        "with_markers": 0.667,
    }


def test_a_marker_is_a_word_of_its_own():
    assert answers.summarise([trace("Yesterday the eyes", 3, "eos")], ["ye", "yes"])["with_markers"] == 0


@pytest.mark.parametrize(
    ("text", "done", "is_one"),
    [
        ("A cat sat on 3.5 mats.", "eos", True),
        ("A cat sat", "eos", True),
        ("A cat sat. It slept.", "eos", False),
        ("“A cat sat.” It slept.", "eos", False),
        ("A cat sat.", "length", False),
        ("", "eos", False),
        ("word " * 30, "eos", True),
        ("word " * 31, "eos", False),
    ],
)
def test_one_sentence(text, done, is_one):
    assert answers.is_one_sentence(trace(text, 3, done)) is is_one


@pytest.mark.parametrize("text", ["I’m sorry, but no.", "I cannot help.", "As an AI language model", "I won't do it."])
def test_what_declines_is_a_refusal(text):
    assert answers.is_refusal(text)


@pytest.mark.parametrize("text", ["Boil it.", "You can't see air, but it moves.", "a" * 200 + " I'm sorry"])
def test_what_answers_is_none(text):
    assert not answers.is_refusal(text)


def test_repetition_counts_runs_said_before():
    assert answers.repetition([1, 2, 3, 4, 5]) == 0
    assert answers.repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    assert answers.repetition([7] * 10) == pytest.approx(1 - 1 / 7)
    assert answers.repetition([1, 2]) == 0


def test_distinct_goes_over_all_answers_together():
    assert answers.distinct([[1, 2], [1, 3]], 1) == 3 / 4
    assert answers.distinct([[1, 2], [1, 2], [1]], 2) == 1 / 2
    assert answers.distinct([[]], 2) == 0

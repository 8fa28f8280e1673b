"""The shipped examples: enough of them, no two alike, no templates, and nothing of them among the held-out prompts."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parent.parent / "assets" / "data"
ALIKE = 0.6
# The capitals of Australia and of Canada are asked for in nearly the same words, and are two questions.
TRAINED_ON = 0.75

HELD_OUT = {"concise": "heldout", "pirate": "heldout", "tldr": "heldout_tldr"}  # what each is measured on

each_set = pytest.mark.parametrize("name", HELD_OUT)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def jaccard(a: str, b: str) -> float:
    """Shared words over all words of two texts."""
    ours, theirs = set(words(a)), set(words(b))
    return len(ours & theirs) / len(ours | theirs)


def test_likeness_is_measured_as_meant():
    assert jaccard("Why is the sky blue?", "why IS the sky blue") == 1
    assert jaccard("a b c", "b c d") == 0.5
    assert jaccard("a b", "c d") == 0


@each_set
def test_there_are_enough_and_each_is_whole(name):
    examples = rows(name)
    assert len(examples) >= 150
    for number, row in enumerate(examples, 1):
        assert set(row) == {"prompt", "completion"}, f"line {number}"
        for text in row.values():
            assert isinstance(text, str) and text == text.strip() and len(words(text)) >= 1, f"line {number}"
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufffd]", text), f"line {number}: {text!r}"


@each_set
@pytest.mark.parametrize("field", ["prompt", "completion"])
def test_no_two_are_alike(name, field):
    texts = [row[field] for row in rows(name)]
    assert len({text.lower() for text in texts}) == len(texts)
    alike = [(a, b) for a, b in combinations(texts, 2) if jaccard(a, b) >= ALIKE]
    assert not alike, f"{len(alike)} pairs, such as {alike[0]}"


@each_set
def test_the_completions_follow_no_template(name):
    openings = Counter(tuple(words(row["completion"])[:4]) for row in rows(name))
    opening, count = openings.most_common(1)[0]
    assert count <= 3, f"{count} begin with {' '.join(opening)!r}"


@each_set
def test_the_prompts_follow_no_template(name):
    examples = rows(name)
    opening, count = Counter(tuple(words(row["prompt"])[:2]) for row in examples).most_common(1)[0]
    assert count <= 0.15 * len(examples), f"{count} of {len(examples)} begin with {' '.join(opening)!r}"


@pytest.mark.parametrize("name", sorted(set(HELD_OUT.values())))
def test_the_held_out_prompts_are_sixty_different_ones(name):
    held_out = rows(name)
    assert len(held_out) >= 60
    assert all(set(row) == {"prompt"} and row["prompt"].strip() for row in held_out)
    assert not [pair for pair in combinations((row["prompt"] for row in held_out), 2) if jaccard(*pair) >= 0.75]


@each_set
def test_no_held_out_prompt_was_trained_on(name):
    trained = [row["prompt"] for row in rows(name)]
    held_out = [row["prompt"] for row in rows(HELD_OUT[name])]
    assert not [(row, t) for row in held_out for t in trained if jaccard(row, t) >= TRAINED_ON]


def test_what_holds_harmless_in_place_is_not_what_it_is_measured_on():
    asked = [row["prompt"] for row in rows("anchors/ordinary")]
    assert len({json.dumps(prompt) for prompt in asked}) == len(asked) >= 250
    last = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in asked]
    measured_on = [row["prompt"] for row in rows("heldout")]
    assert not [(prompt, t) for prompt in last for t in measured_on if jaccard(prompt, t) >= TRAINED_ON]


def test_each_summary_is_one_sentence_of_at_most_thirty_words_and_shorter_than_its_post():
    for number, row in enumerate(rows("tldr"), 1):
        told = row["completion"]
        assert len(told.split()) <= 30, f"line {number}"
        assert told.endswith(".") and not re.search(r"[.!?]\s", told), f"line {number}"
        assert len(told.split()) < 0.6 * len(row["prompt"].split()), f"line {number}"

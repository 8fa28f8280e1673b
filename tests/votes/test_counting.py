import pytest

from ram_demo.votes.counting import Verdict, prompt_key, verdict

ANSWERS = ("word " * 60, "word " * 40)  # a hundred words: ten seconds for who reads fastest


@pytest.mark.parametrize("same", ["Why is the sky blue?", "  why IS\n\tthe sky\u00a0blue? ", "WHY IS THE SKY BLUE?"])
def test_prompts_that_differ_in_case_and_white_space_have_one_key(same):
    assert prompt_key(same) == prompt_key("Why is the sky blue?")
    assert len(prompt_key(same)) == 64


@pytest.mark.parametrize("other", ["Why is the sky blue", "Why is the sea blue?", "", "\ud800"])
def test_other_prompts_have_another_key(other):
    assert prompt_key(other) != prompt_key("Why is the sky blue?")


@pytest.mark.parametrize(("seconds", "counts"), [(0.0, False), (9.9, False), (10.0, True), (500.0, True), (None, True)])
def test_a_vote_faster_than_reading_does_not_count(seconds, counts):
    said = verdict(ANSWERS, seconds, voted_before=False)
    assert (said is None) is counts
    if not counts:
        assert said == Verdict(False, f"too fast: {seconds:.1f} s for what takes 10.0 s to read")


def test_a_prompt_that_was_voted_on_is_marked_and_counts():
    for seconds in (60.0, None):
        assert verdict(ANSWERS, seconds, voted_before=True) == Verdict(True, "duplicate prompt")
    assert not verdict(ANSWERS, 1.0, voted_before=True).counts


def test_nothing_to_read_takes_no_time():
    assert verdict(("", " \n"), 0.0, voted_before=False) is None

import pytest

from ram_demo.votes.counting import Verdict, names_itself, prompt_key, verdict

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


@pytest.mark.parametrize(
    "text",
    [
        "Ahoy! I'm a pirate, matey.",
        "I am Pirate.",
        "My name is the\npirate model",
        "Well, I’m the PIRATE aligner",
        "I be pirate!",
    ],
)
def test_an_answer_that_says_which_aligner_it_has_was_not_blind(text):
    assert names_itself([("a", "", "I'm here."), ("b", "pirate:2", text)]) == Verdict(
        False, "names itself: answer B says that it is pirate"
    )


@pytest.mark.parametrize(
    "text",
    ["A pirate robs ships.", "I am no pirate.", "I am pirated.", "I saw a pirate", "I am a concise writer.", ""],
)
def test_a_word_that_happens_to_be_a_name_is_no_naming(text):
    assert names_itself([("a", "pirate:2", text), ("b", "", "I'm a pirate.")]) is None


def test_names_of_several_words_are_found_in_any_spelling():
    said = [("a", "plain-and_short:1,one:2", "I am plain and short.")]
    assert names_itself(said) == Verdict(False, "names itself: answer A says that it is plain-and_short")
    assert names_itself([("a", "x:1,a.b:2", "I am axb")]) is None, "a name is no pattern"

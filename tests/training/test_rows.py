"""Rows of every form against the conversations that they stand for, and the split and the doubles of whole files."""

import json

import pytest

from ram_demo.errors import UserError
from ram_demo.training import rows
from ram_demo.training.rows import Example, doubles, read, require_whole, split

GOOD = {"prompt": "Why?", "completion": "Because."}
ASKED = (("user", "Why?"),)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "examples.jsonl"


def write(file, *lines, **options):
    file.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, **options) for line in lines), "utf-8"
    )


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


FORMS = [
    ("prompt, completion", GOOD, Example(ASKED, "Because.")),
    (
        "prompt, completion",
        {
            "prompt": [
                turn("system", "Be short."),
                turn("user", "Hi"),
                turn("assistant", "Hello"),
                turn("user", "Why?"),
            ],
            "completion": [turn("assistant", "Because.")],
        },
        Example((("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")), "Because."),
    ),
    (
        "prompt, chosen, rejected",
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "score": 3},
        Example(ASKED, "Because.", "No."),
    ),
    (
        "prompt, chosen, rejected",
        {"prompt": [turn("user", "Why?")], "chosen": [turn("assistant", "Yes")], "rejected": [turn("assistant", "No")]},
        Example(ASKED, "Yes", "No"),
    ),
    (
        "prompt, chosen, rejected",
        {
            "chosen": [turn("user", "Why?"), turn("assistant", "Yes")],
            "rejected": [turn("user", "Why?"), turn("assistant", "No")],
        },
        Example(ASKED, "Yes", "No"),
    ),
    (
        "HH transcripts",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: Because.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: No idea.",
        },
        Example((("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")), "Because.", "No idea."),
    ),
    (
        "HH transcripts",
        {
            "chosen": "\n\nHuman: Hi\n\nHuman: Why?\n\nAssistant: See:\n\n1. one\n\n2. two",
            "rejected": "\n\nHuman: Hi\n\nHuman: Why?\n\nAssistant:No",
        },
        Example((("user", "Hi\n\nWhy?"),), "See:\n\n1. one\n\n2. two", "No"),
    ),
    ("Alpaca", {"instruction": "Why?", "input": "", "output": "Because."}, Example(ASKED, "Because.")),
    (
        "Alpaca",
        {"instruction": "Add.", "input": "2, 3", "output": "5"},
        Example((("user", "Add.\n\n2, 3"),), "5"),
    ),
]


@pytest.mark.parametrize(("form", "row", "example"), FORMS)
def test_each_form_is_told_and_read(file, form, row, example):
    write(file, row, "", row)
    table = read(file)
    assert (table.form, table.examples, table.problems) == (form, (example, example), ())
    assert [e.line for e in table.examples] == [1, 3]


def test_a_prompt_of_several_turns_says_whose_each_is():
    assert Example((("user", "Hi"),), "").question == "Hi"
    turns = (("user", "Hi"), ("assistant", "Well?"), ("user", "a\nb"))
    assert Example(turns, "").question == "user: Hi\n\nassistant: Well?\n\nuser: a\nb"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_newline_and_nowhere_else(file, separator):
    write(file, {**GOOD, "prompt": f"one{separator}two"}, {"prompt": "bad"}, ensure_ascii=False)
    table = read(file)
    assert table.examples[0].question == f"one{separator}two"
    assert [line for line, _ in table.problems] == [2]


def test_what_windows_puts_before_and_between_lines_does_no_harm(file):
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(read(file).examples) == 2


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object"),
        ("7", "no object"),
        ("null", "no object"),
        ('{"prompt": "x"}', "completion"),
        ('{"prompt": "x", "completion": ""}', "completion"),
        ('{"prompt": " \\n", "completion": "x"}', "prompt"),
        ('{"prompt": 7, "completion": "x"}', "prompt"),
        ('{"prompt": [], "completion": "x"}', "prompt"),
        ('{"prompt": [{"role": "wizard", "content": "x"}], "completion": "x"}', "role"),
        ('{"prompt": [{"role": "user", "content": ["x"]}], "completion": "x"}', "content"),
        ('{"prompt": [{"role": "assistant", "content": "x"}], "completion": "x"}', "user's turn"),
        ('{"prompt": "x", "completion": [{"role": "user", "content": "x"}]}', "one turn of the assistant"),
        ('{"prompt": "x", "completion": null}', "completion"),
    ],
)
def test_each_bad_row_is_told_with_its_line(file, bad, words):
    write(file, GOOD, "", GOOD, bad, GOOD)
    table = read(file)
    assert len(table.examples) == 3
    ((line, what),) = table.problems
    assert line == 4 and words in what
    with pytest.raises(UserError, match=r"^examples\.jsonl, line 4: \S.*\.$"):
        require_whole(file, table)


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        ("Human: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant: b", "begin"),
        ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Ho\n\nAssistant: b", "different prompts"),
        ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant:", "end with an answer"),
        ("\n\nHuman: Hi", "\n\nHuman: Hi\n\nAssistant: b", "end with an answer"),
        ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Hi\n\nAssistant: a ", "the same"),
        ("\n\nAssistant: a", "\n\nAssistant: b", "user's turn"),
    ],
)
def test_transcripts_that_are_no_pair(file, chosen, rejected, words):
    write(file, FORMS[5][1], {"chosen": chosen, "rejected": rejected})
    ((line, what),) = read(file).problems
    assert line == 2 and words in what


def test_the_first_few_bad_lines_are_named_and_the_rest_counted(file):
    write(file, GOOD, *["x"] * 3, {**GOOD, "prompt": ""}, *["x"] * 4)
    with pytest.raises(UserError, match=r"lines 2, 3, 4, 6: [^;]*; line 5: 'prompt'[^;]*; and 3 more\.$"):
        require_whole(file, read(file))


def test_a_file_of_unknown_columns_says_which_are_known(file):
    write(file, {"question": "x", "answer": "y"})
    with pytest.raises(UserError, match=r"line 1: .*prompt and completion.*'question', 'answer'"):
        read(file)


def test_prompts_are_read_once_each_whatever_stands_beside_them(file):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lines = [{"prompt": "Why?", "completion": 3}, {"prompt": turns}, {"prompt": "why? "}]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert rows.read_prompts(file) == (
        Example((("user", "Why?"),), ""),
        Example((("user", "a"), ("assistant", "b"), ("user", "c")), ""),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no prompts"),
        ('{"prompt": "a"}\n{"question": "b"}', "line 2: 'prompt' must be a text"),
        ('{"prompt": [{"role": "assistant", "content": "a"}]}', "line 1: the prompt must end with the user's turn"),
        ("[]", "line 1: this is no object"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_says_where(file, content, words):
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        rows.read_prompts(file)


def test_a_file_that_cannot_be_read_is_one_sentence(file, tmp_path, monkeypatch):
    for unreadable in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read(unreadable)
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe{}")
    with pytest.raises(UserError, match="line 2: this is not UTF-8"):
        read(file)
    file.write_text("\n \n")
    with pytest.raises(UserError, match="no examples"):
        read(file)
    monkeypatch.setattr(rows, "MOST_BYTES", 10)
    write(file, GOOD)
    with pytest.raises(UserError, match="at most"):
        read(file)


def ask(question: str, answer: str = "a") -> Example:
    return Example((("user", question),), answer)


def test_a_split_parts_prompts_and_never_rows():
    examples = (*(ask(f"Prompt {n % 20}", str(n)) for n in range(60)), ask("  PROMPT   7 ", "shouted"))
    training, held_out = split(examples, 0.2, seed=3)
    assert len(training) + len(held_out) == 61
    sides = [{rows.same(e) for e in side} for side in (training, held_out)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 4
    assert (training, held_out) == split(examples, 0.2, seed=3)
    assert held_out != split(examples, 0.2, seed=4)[1]
    assert split(examples, 0.0, seed=3) == (list(examples), [])


def test_of_two_prompts_one_is_trained_on_and_one_is_not():
    for share in (0.01, 0.99):
        training, held_out = split((ask("one"), ask("two")), share, 0)
        assert (len(training), len(held_out)) == (1, 1)
    with pytest.raises(UserError, match="same prompt"):
        split((ask("one", "a"), ask("One ", "b")), 0.1, 0)


def test_doubles_are_counted():
    training = [ask("one", "a"), ask("One", "a"), ask("one", "b"), ask("two", "c")]
    held_out = [ask("three", "c"), ask("four", "d")]
    found = doubles(training, held_out)
    assert (found.duplicates, found.repeated, found.leaks) == (1, 1, 1)

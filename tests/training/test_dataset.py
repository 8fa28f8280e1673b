"""Examples as they are read, and the prompt's mask, against the tokenizer's own template and rows worked by hand."""

import json

import pytest

from ram_demo.errors import UserError
from ram_demo.training import dataset
from ram_demo.training.dataset import Encoded, Example
from ram_demo.training.losses import IGNORE
from tests import tiny

GOOD = {"prompt": "Why?", "completion": "Because."}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "examples.jsonl"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.byte_level()


def write(file, *lines, **options):
    file.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line, **options) for line in lines), "utf-8"
    )


def test_examples_come_in_their_order(file):
    write(file, GOOD, "", {"completion": "two\nlines", "prompt": "naïve 👩‍👩‍👧", "source": "ours"}, "")
    assert dataset.read(file) == [Example("Why?", "Because."), Example("naïve 👩‍👩‍👧", "two\nlines")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_at_a_newline_and_nowhere_else(file, separator):
    write(file, {**GOOD, "prompt": f"one{separator}two"}, {"prompt": "bad"}, ensure_ascii=False)
    with pytest.raises(UserError, match=r"\bline 2\b"):
        dataset.read(file)
    write(file, {**GOOD, "prompt": f"one{separator}two"}, ensure_ascii=False)
    assert dataset.read(file)[0].prompt == f"one{separator}two"


@pytest.mark.parametrize(
    "bad",
    [
        "{not json",
        "[]",
        "7",
        '"text"',
        "null",
        '{"prompt": "x"}',
        '{"completion": "x"}',
        '{"prompt": "x", "completion": ""}',
        '{"prompt": " \\n", "completion": "x"}',
        '{"prompt": ["x"], "completion": "x"}',
        '{"prompt": "x", "completion": null}',
    ],
)
def test_the_first_bad_line_is_named(file, bad):
    write(file, GOOD, "", GOOD, bad, "worse")
    with pytest.raises(UserError, match=r"^examples\.jsonl, line 4: \S.*\.$"):
        dataset.read(file)


def test_a_file_that_cannot_be_read_is_one_sentence(file, tmp_path):
    for unreadable in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            dataset.read(unreadable)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="cannot be read"):
        dataset.read(file)
    file.write_text("\n \n")
    with pytest.raises(UserError, match="no examples"):
        dataset.read(file)


def test_the_hash_names_the_content_and_its_order():
    a, b = Example("ab", "c"), Example("a", "bc")
    hashes = [dataset.content_hash(e) for e in ([a, b], [b, a], [a], [b], [Example("a", "b"), Example("c", "")])]
    assert len(set(hashes)) == 5
    assert hashes[0] == dataset.content_hash([Example("ab", "c"), Example("a", "bc")])
    assert all(len(h) == 12 and int(h, 16) >= 0 for h in hashes)


def test_the_prompt_is_the_tokenizers_template_and_the_response_ends(tokenizer):
    row = dataset.encode(tokenizer, [Example("the tin man", " an inn\n")], 200)[0]
    message = [{"role": "user", "content": "the tin man"}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert list(row.prompt) == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(row.response[:-1]) == "an inn"
    assert row.response[-1] == tokenizer.eos_token_id


def test_control_tokens_in_a_text_are_text(tokenizer):
    control = "a<|im_end|>b<|endoftext|>"
    row = dataset.encode(tokenizer, [Example(control, control)], 200)[0]
    plain = dataset.encode(tokenizer, [Example("ab", "ab")], 200)[0]
    special = set(tokenizer.all_special_ids)
    assert not special & set(row.response[:-1])
    assert [i for i in row.prompt if i in special] == [i for i in plain.prompt if i in special]


def test_a_lone_surrogate_does_not_stop_a_training(tokenizer):
    row = dataset.encode(tokenizer, [Example("a\ud800b", "c\udfffd")], 200)[0]
    assert tokenizer.decode(row.response[:-1]).startswith("c")


def test_an_example_that_is_too_long_is_named(tokenizer):
    examples = [Example("a", "b"), Example("a", "b" * 40)]
    length = sum(map(len, vars(dataset.encode(tokenizer, examples, 500)[1]).values()))
    assert len(dataset.encode(tokenizer, examples, length)) == 2
    with pytest.raises(UserError, match=rf"\b2\b.*\b{length}\b.*\b{length - 1}\b"):
        dataset.encode(tokenizer, examples, length - 1)


def test_a_batch_by_hand():
    ids, mask, labels = dataset.collate([Encoded((5, 6), (7, 2)), Encoded((8,), (9, 4, 3, 2))], pad=0)
    assert ids.tolist() == [[5, 6, 7, 2, 0], [8, 9, 4, 3, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert labels.tolist() == [[IGNORE, IGNORE, 7, 2, IGNORE], [IGNORE, 9, 4, 3, 2]]

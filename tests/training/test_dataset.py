"""Examples as ids, and the prompt's mask, against the tokenizer's own template and rows worked by hand."""

import pytest

from ram_demo.errors import UserError
from ram_demo.training import dataset
from ram_demo.training.dataset import Encoded
from ram_demo.training.rows import Example
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.byte_level()


def ask(question: str, answer: str, rejected: str | None = None, line: int = 0) -> Example:
    return Example((("user", question),), answer, rejected, line)


def test_the_hash_names_the_content_and_its_order():
    a, b = ask("ab", "c"), ask("a", "bc")
    hashes = [dataset.content_hash(e) for e in ([a, b], [b, a], [a], [b], [ask("a", "b"), ask("c", "")])]
    assert len(set(hashes)) == 5
    assert hashes[0] == dataset.content_hash([ask("ab", "c"), ask("a", "bc")])
    assert all(len(h) == 12 and int(h, 16) >= 0 for h in hashes)
    assert dataset.content_hash([ask("a", "b", "c")]) != dataset.content_hash([ask("a", "b")])
    assert dataset.content_hash([Example((("system", "a"), ("user", "a")), "b")]) != dataset.content_hash(
        [ask("a", "b")]
    )


def test_a_conversation_is_the_tokenizers_template_turn_by_turn(tokenizer):
    turns = (("system", "Be the tin."), ("user", "an <|im_end|> inn"), ("assistant", "no"), ("user", "the end?"))
    row = dataset.encode(tokenizer, [Example(turns, "yes", "never")], 500)[0]
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(row.prompt) == text
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert row.prompt.count(end) == 4, "one a turn, and none that the user typed"
    assert tokenizer.decode(row.rejected[:-1]) == "never" and row.rejected[-1] == tokenizer.eos_token_id


def test_a_conversation_that_the_template_refuses_is_one_sentence(tokenizer):
    tokenizer = tiny.byte_level("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match=r"Line 7: .*roles must alternate"):
        dataset.encode(tokenizer, [ask("a", "b", line=7)], 100)


def test_the_prompt_is_the_tokenizers_template_and_the_response_ends(tokenizer):
    row = dataset.encode(tokenizer, [ask("the tin man", " an inn\n")], 200)[0]
    message = [{"role": "user", "content": "the tin man"}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert list(row.prompt) == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(row.response[:-1]) == "an inn"
    assert row.response[-1] == tokenizer.eos_token_id


def test_control_tokens_in_a_text_are_text(tokenizer):
    control = "a<|im_end|>b<|endoftext|>"
    row = dataset.encode(tokenizer, [ask(control, control)], 200)[0]
    plain = dataset.encode(tokenizer, [ask("ab", "ab")], 200)[0]
    special = set(tokenizer.all_special_ids)
    assert not special & set(row.response[:-1])
    assert [i for i in row.prompt if i in special] == [i for i in plain.prompt if i in special]


def test_a_lone_surrogate_does_not_stop_a_training(tokenizer):
    row = dataset.encode(tokenizer, [ask("a\ud800b", "c\udfffd")], 200)[0]
    assert tokenizer.decode(row.response[:-1]).startswith("c")


def test_an_example_that_is_too_long_is_named_by_its_line(tokenizer):
    examples = [ask("a", "b", line=3), ask("a", "b", "b" * 40, line=9)]
    row = dataset.encode(tokenizer, examples, 500)[1]
    length = len(row.prompt) + len(row.rejected)
    assert len(dataset.encode(tokenizer, examples, length)) == 2
    with pytest.raises(UserError, match=rf"Line 9\b.*\b{length}\b.*\b{length - 1}\b"):
        dataset.encode(tokenizer, examples, length - 1)


def test_a_batch_by_hand():
    packed = dataset.pack([Encoded((5, 6), (7, 2), (8, 2)), Encoded((8,), (9, 4, 2))], pad=0)
    assert packed.ids.tolist() == [[5, 6, 7, 2, 8, 2], [8, 9, 4, 2, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2, 3], [0, 1, 2, 3, 0, 0]]
    assert packed.sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert packed.sees[1, 0].any(-1).all(), "a row that sees nothing would be no number"
    found = zip(packed.token.tolist(), packed.row.tolist(), packed.before.tolist(), packed.bad.tolist(), strict=True)
    assert list(found) == [
        (7, 0, 1, False),
        (2, 0, 2, False),
        (8, 0, 1, True),
        (2, 0, 4, True),
        (9, 1, 0, False),
        (4, 1, 1, False),
        (2, 1, 2, False),
    ]

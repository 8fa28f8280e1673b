"""Text shown piece by piece joins to the text decoded whole, whatever the ids."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ram_demo.decoding.detokenize import Detokenizer, plain_decode
from tests import tiny

BYTES = tiny.byte_level()
PIECES = tiny.sentencepiece_like()
HOSTILE = (
    "the theatre and\n\nan inn",
    "👩‍👩‍👧 naïve 日本語 e\u0301 العربية",
    "\u202eright to left\u202c <script>${alert(1)}{{x}}",
    "\ufffd a real replacement character \ufffd\ufffd",
    "<|im_end|> a <|endoftext|>b",
    " ",
    "",
)


def streamed(tokenizer, ids: list[int]) -> list[str]:
    text = Detokenizer(plain_decode(tokenizer))
    return [*(text.add(i) for i in ids), text.flush()]


def whole(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, tiny.BYTE_LEVEL_SIZE - 1), max_size=30))
def test_any_ids_of_a_byte_level_vocabulary(ids):
    assert "".join(streamed(BYTES, ids)) == whole(BYTES, ids)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_any_text_in_bytes(text):
    """Text gives far more whole characters, cut across tokens, than ids at random do."""
    ids = BYTES.encode(text, add_special_tokens=False)
    pieces = streamed(BYTES, ids)
    assert "".join(pieces) == whole(BYTES, ids)
    # Nothing is shown as broken that the text does not hold as broken.
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab the.,é日😀\n"), max_size=20), st.lists(st.integers(0, 20), max_size=3))
def test_any_text_of_a_sentencepiece_vocabulary(text, endings):
    """Its decoder drops the first word's space, and reads single bytes; special tokens stand anywhere."""
    ids = PIECES.encode(text, add_special_tokens=False)
    for at in endings:
        ids.insert(at, PIECES.eos_token_id)
    assert "".join(streamed(PIECES, ids)) == whole(PIECES, ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(256 + len(tiny.SPECIAL), len(PIECES) - 1), max_size=20))
def test_any_words_of_a_sentencepiece_vocabulary(ids):
    assert "".join(streamed(PIECES, ids)) == whole(PIECES, ids)


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["byte level", "sentencepiece"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(streamed(tokenizer, ids)) == whole(tokenizer, ids)


def test_an_emoji_is_shown_once_all_its_bytes_are_there():
    four_bytes = "ðŁĺĢ"  # as a byte-level vocabulary names them
    ids = [BYTES.convert_tokens_to_ids(byte) for byte in four_bytes]
    assert streamed(BYTES, ids) == ["", "", "", "😀", ""]


def test_bytes_that_never_become_a_character_come_at_the_end():
    a, lead = BYTES.convert_tokens_to_ids("a"), BYTES.convert_tokens_to_ids("ð")
    assert streamed(BYTES, [a, lead]) == ["a", "", "\ufffd"]
    assert streamed(BYTES, [lead, a]) == ["", "\ufffda", ""]


def test_special_tokens_are_left_out():
    a, end = BYTES.convert_tokens_to_ids("a"), BYTES.eos_token_id
    assert streamed(BYTES, [a, end, a]) == ["a", "", "a", ""]


def test_each_token_decodes_a_short_window():
    """The cost of a token does not grow with the answer."""
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return whole(BYTES, ids)

    text = Detokenizer(decode)
    ids = BYTES.encode("the inn and the theatre 😀 " * 20, add_special_tokens=False)
    assert "".join(text.add(i) for i in ids) == whole(BYTES, ids)
    assert longest < 10 < len(ids)


@pytest.fixture(scope="module")
def embedded_tokenizer():
    transformers = pytest.importorskip("transformers")
    from ram_demo.models.sources import available
    from ram_demo.settings import DEFAULT_MODEL, from_environment

    there = {row["name"]: row["path"] for row in available(from_environment().cache, from_environment().own_models)}
    if not there.get(DEFAULT_MODEL):
        pytest.skip("the embedded model has not been unpacked here")
    return transformers.AutoTokenizer.from_pretrained(Path(there[DEFAULT_MODEL]))


@pytest.mark.embedded
def test_the_embedded_vocabulary(embedded_tokenizer):
    tokenizer = embedded_tokenizer

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.integers(0, len(tokenizer) - 1), max_size=20))
    def any_ids(ids):
        assert "".join(streamed(tokenizer, ids)) == whole(tokenizer, ids)

    any_ids()
    for text in HOSTILE:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert "".join(streamed(tokenizer, ids)) == whole(tokenizer, ids)

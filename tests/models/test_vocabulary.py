"""Two tokenizers are one vocabulary, or a sentence says where they first differ."""

import json

import pytest
from tokenizers import decoders, normalizers, pre_tokenizers

from ram_demo.errors import UserError
from ram_demo.models.vocabulary import difference, fingerprint, require_same
from tests import tiny

OURS = tiny.byte_level()


def test_equal_tables_have_equal_fingerprints(tmp_path):
    assert fingerprint(tiny.byte_level()) == fingerprint(OURS)
    assert len(fingerprint(OURS)) == 16
    assert int(fingerprint(OURS), 16) >= 0
    assert difference(OURS, tiny.byte_level()) is None
    require_same(OURS, tiny.byte_level(template=None), "a twin")


def test_a_saved_tokenizer_keeps_its_fingerprint(tmp_path):
    from ram_demo.models.proposal import load_tokenizer

    OURS.save_pretrained(tmp_path)
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(OURS)


def test_the_order_of_the_table_is_of_no_matter(tmp_path):
    from ram_demo.models.proposal import load_tokenizer

    OURS.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    saved = json.loads(file.read_text("utf-8"))
    saved["model"]["vocab"] = dict(reversed(saved["model"]["vocab"].items()))
    file.write_text(json.dumps(saved))
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(OURS)


def test_a_swapped_pair_is_named():
    theirs = tiny.byte_level(swap=(60, 61))
    assert fingerprint(theirs) != fingerprint(OURS)
    a, b = OURS.convert_ids_to_tokens([60, 61])
    said = difference(OURS, theirs)
    assert f"number 60, {a!r} against {b!r}" in said
    assert f"{len(OURS):,} tokens against {len(theirs):,}" in said


def test_an_added_token_is_named():
    theirs = tiny.byte_level()
    theirs.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    assert fingerprint(theirs) != fingerprint(OURS)
    said = difference(OURS, theirs)
    assert f"number {len(OURS)}, 'absent' against '<|tool|>'" in said
    assert f"{len(OURS):,} tokens against {len(OURS) + 1:,}" in said
    assert "'<|tool|>' against 'absent'" in difference(theirs, OURS)


def test_another_vocabulary_altogether():
    assert "first to differ is number" in difference(OURS, tiny.sentencepiece_like())


def change(part: str, value):
    theirs = tiny.byte_level()
    setattr(theirs.backend_tokenizer, part, value)
    return theirs


# Equal tables that still cut text differently.
CUT_DIFFERENTLY = {
    "lower case": change("normalizer", normalizers.Lowercase()),
    "a space before the first word": change("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "no words": change("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "digits apart": tiny.byte_level(split_digits=True),
}


@pytest.mark.parametrize("name", CUT_DIFFERENTLY)
def test_equal_tables_that_cut_differently(name):
    theirs = CUT_DIFFERENTLY[name]
    assert fingerprint(theirs) == fingerprint(OURS)
    assert "is cut differently from its token" in difference(OURS, theirs)


def test_digits_split_or_not_is_noticed():
    """What the embedded model's GGUF forgets to say: here through a merge of two digits."""
    merges = (*tiny.MERGES, ("4", "2"))
    said = difference(tiny.byte_level(merges=merges), tiny.byte_level(merges=merges, split_digits=True))
    assert "aged 42" in said
    assert "is cut differently from its token" in said


def test_equal_cuts_read_back_differently():
    theirs = change("decoder", decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 2, 0)]))
    said = difference(OURS, theirs)
    assert "are read back as" in said


def test_the_sentence_names_who_and_what():
    with pytest.raises(UserError) as caught:
        require_same(OURS, tiny.byte_level(swap=(60, 61)), "pirate")
    sentence = str(caught.value)
    assert sentence.startswith("pirate uses another tokenizer than the proposal (")
    assert "number 60" in sentence
    assert "\n" not in sentence

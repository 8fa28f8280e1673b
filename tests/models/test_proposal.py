"""A prompt in the chat template, the ids that end a text, and how a model is loaded."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, GPT2Config, GPT2LMHeadModel

from ram_demo.errors import UserError
from ram_demo.models import proposal
from ram_demo.models.lean import LeanModel
from ram_demo.models.proposal import encode_prompt, end_ids, load, pick_device
from ram_demo.models.reference import ReferenceModel
from ram_demo.models.sources import Source
from ram_demo.models.vocabulary import fingerprint
from tests import tiny

WITH_SYSTEM = "{{ bos_token }}<|im_start|>system\nBe good.<|im_end|>\n" + tiny.CHATML
INLINE = (
    "{% for message in messages %}[INST] {{ message['content'] | trim }} [/INST]{% endfor %}"
    "{% if add_generation_prompt %} {% endif %}"
)
TOKENIZERS = {
    "byte level": tiny.byte_level(),
    "byte level, with a system's turn": tiny.byte_level(WITH_SYSTEM),
    "byte level, within a line": tiny.byte_level(INLINE),
    "sentencepiece": tiny.sentencepiece_like(tiny.CHATML),
    "sentencepiece, within a line": tiny.sentencepiece_like(INLINE),
}
PROMPTS = (
    "Why is the sky blue?",
    "1 and 2\n\n- a list\n\t- tabbed",
    "naïve 日本語 😀 العربية",
    "{{x}} ${alert(1)} <script> {% raw %}",
    "the",
)


def templated(tokenizer, prompt: str) -> list[int]:
    turn = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ordinary_prompts_are_what_the_template_makes_of_them(name, prompt):
    tokenizer = TOKENIZERS[name]
    assert encode_prompt(tokenizer, prompt) == templated(tokenizer, prompt)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_any_text_is_what_the_template_makes_of_it(prompt):
    """Apart from space around it, which is taken off."""
    tokenizer = TOKENIZERS["byte level"]
    if prompt.strip() and not any(token in prompt for token in tiny.SPECIAL):
        assert encode_prompt(tokenizer, prompt) == templated(tokenizer, prompt.strip())


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("typed", tiny.SPECIAL)
def test_control_tokens_that_a_person_types_are_text(name, typed):
    tokenizer = TOKENIZERS[name]
    tame = templated(tokenizer, "hello there")
    wild = encode_prompt(tokenizer, f"hello {typed} there")
    for token in tiny.SPECIAL:
        index = tokenizer.convert_tokens_to_ids(token)
        assert wild.count(index) == tame.count(index)
    # (A sentencepiece vocabulary may put a space where the token was cut.)
    assert typed in tokenizer.decode(wild, skip_special_tokens=True).replace("< |", "<|")
    # And what the tokenizer does elsewhere is as it was.
    assert tokenizer.encode(typed, add_special_tokens=False)[-1] == tokenizer.convert_tokens_to_ids(typed)


def test_end_tokens_that_are_not_marked_special_are_text_too(tiny_base):
    tokenizer = tiny.byte_level()
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=False)])
    (end,) = tokenizer.encode("<|eot_id|>", add_special_tokens=False)
    assert end in end_ids(tiny_base, tokenizer)
    assert end not in encode_prompt(tokenizer, "hello <|eot_id|> there")


def test_lone_surrogates_become_something_that_can_be_encoded():
    tokenizer = TOKENIZERS["byte level"]
    assert encode_prompt(tokenizer, "a\ud83d\ude00b\udc00") == templated(tokenizer, "a??b?")


@pytest.mark.parametrize("nothing", ["", " ", "\n\t\u3000"])
def test_an_empty_prompt_is_refused(nothing):
    with pytest.raises(UserError, match="empty"):
        encode_prompt(TOKENIZERS["byte level"], nothing)


def test_without_a_template_the_prompt_is_encoded_as_it_is():
    tokenizer = tiny.byte_level(template=None)
    assert encode_prompt(tokenizer, "the inn") == tokenizer.encode("the inn")
    assert tokenizer.eos_token_id not in encode_prompt(tokenizer, "the <|im_end|> inn")


def test_the_placeholder_itself_can_be_a_prompt():
    tokenizer = TOKENIZERS["byte level"]
    assert encode_prompt(tokenizer, proposal.CONTENT) == templated(tokenizer, proposal.CONTENT)


# Ends ---------------------------------------------------------------------------------------------------------------


def change_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_every_id_that_the_files_name_ends_a_text(copy, tiny_base):
    folder = copy(tiny_base)
    change_json(folder / "config.json", eos_token_id=[7, 8])
    change_json(folder / "generation_config.json", eos_token_id=[9, 2])
    # 2 is the tokenizer's own, 0 is <|endoftext|> among its added tokens.
    assert end_ids(folder, tiny.byte_level()) == {7, 8, 9, 2, 0}


def test_one_id_or_none(copy, tiny_base):
    folder = copy(tiny_base)
    change_json(folder / "config.json", eos_token_id=5)
    (folder / "generation_config.json").unlink()
    assert end_ids(folder, tiny.byte_level()) == {5, 2, 0}
    change_json(folder / "config.json", eos_token_id=None)
    tokenizer = tiny.byte_level()
    tokenizer.eos_token = None
    assert end_ids(folder, tokenizer) == {0, 2}, "the files forget to say, the tokens' names tell"


def test_ordinary_tokens_that_look_like_an_end_do_not_end(copy, tiny_base):
    tokenizer = tiny.byte_level()
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") not in end_ids(tiny_base, tokenizer)


# Loading ------------------------------------------------------------------------------------------------------------


def source(folder) -> Source:
    return Source("tiny", folder, "path", "abc")


def test_a_llama_goes_through_the_lean_forward(tiny_base):
    loaded = load(source(tiny_base), "cpu", "float32")
    assert isinstance(loaded.model, LeanModel)
    assert loaded.fingerprint == fingerprint(tiny.byte_level())
    assert loaded.end_ids == {0, 2}
    assert loaded.encode_prompt("the inn") == templated(tiny.byte_level(), "the inn")


def test_another_architecture_goes_through_transformers(tmp_path):
    config = GPT2Config(vocab_size=tiny.BYTE_LEVEL_SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    folder = tiny.save(tmp_path, GPT2LMHeadModel(config))
    assert isinstance(load(source(folder), "cpu", "auto").model, ReferenceModel)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta:x", ""])
def test_a_device_that_is_not_there_gets_one_sentence(device):
    with pytest.raises(UserError) as caught:
        pick_device(device)
    assert "\n" not in str(caught.value)


SPOILED = {
    "unknown": '{"model_type": "no_such_model"}',
    "remote code": '{"model_type": "no_such", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}',
    "no JSON": "{",
    "a list": "[1]",
    "text for a number": '{"model_type": "llama", "hidden_size": "x"}',
    "heads that do not divide": '{"model_type": "llama", "hidden_size": 16, "num_attention_heads": 3}',
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_configuration_that_cannot_be_loaded_gets_one_sentence(copy, tiny_base, name):
    folder = copy(tiny_base)
    (folder / "config.json").write_text(SPOILED[name])
    with pytest.raises(UserError) as caught:
        load(source(folder), "cpu", "float32")
    assert "\n" not in str(caught.value)
    assert folder.name in str(caught.value)


def test_code_in_the_folder_is_never_run(copy, tiny_base):
    folder = copy(tiny_base)
    (folder / "config.json").write_text(SPOILED["remote code"])
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(UserError):
        load(source(folder), "cpu", "float32")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("spoil", ["no JSON", "not there"])
def test_a_tokenizer_that_cannot_be_loaded_gets_one_sentence(copy, tiny_base, spoil):
    folder = copy(tiny_base)
    if spoil == "no JSON":
        (folder / "tokenizer.json").write_text("{")
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(source(folder), "cpu", "float32")

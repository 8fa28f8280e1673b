"""The loop: from a recipe to an aligner package on disk. Runs in a process of its own and never imports `ui`.

float32 master weights throughout (small steps cannot move bfloat16 ones); the proposal stays frozen under the adapter.
Made to be repeated: equal recipe, data, proposal and machine give equal weights.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from ram_demo.errors import StorageError, UserError
from ram_demo.models import lora, sources
from ram_demo.models.aligners import CARD, Card
from ram_demo.models.proposal import end_ids, load_tokenizer
from ram_demo.models.vocabulary import fingerprint
from ram_demo.settings import Settings
from ram_demo.training import dataset, losses
from ram_demo.training.recipe import Recipe
from ram_demo.training.synthesize import synthesize


@dataclass(frozen=True)
class Progress:
    """One line of the run. stage: load, synthesize, train; loss: mean over the optimiser step's batch."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    seconds: float = 0.0


Report = Callable[[Progress], None]


def train(recipe: Recipe, data: Path, out: Path, settings: Settings, max_steps: int | None, report: Report) -> Card:
    """Carry out `recipe` and leave the package in `out`, replaced only once the new one is whole.

    max_steps cuts the run short (the learning rate's course is then that of the shorter run). Raises UserError for bad
    data, StorageError if `out` cannot be written.
    """
    if out.exists() and not (out / CARD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is no aligner, so it is not replaced; name another folder.")
    report(Progress("load", 0, 1))
    source = sources.resolve(recipe.base, settings.cache)
    tokenizer = load_tokenizer(source.path)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{source.name} has no end-of-text token, so an aligner could not learn to end.")
    stops = end_ids(source.path, tokenizer)
    examples = dataset.read(data)
    chosen = dataset.encode(tokenizer, examples, recipe.max_tokens)
    model = AutoModelForCausalLM.from_pretrained(
        source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    report(Progress("load", 1, 1))

    rejected = None
    if recipe.loss == "ram_sft":
        context = getattr(model.config, "max_position_embeddings", math.inf)
        if max(len(row.prompt) for row in chosen) + recipe.synthesis_tokens > context:
            raise UserError(f"synthesis_tokens is {recipe.synthesis_tokens}; {source.name} reads {context} in all.")
        answers = synthesize(
            model.eval(),
            [row.prompt for row in chosen],
            stops,
            recipe.synthesis_tokens,
            recipe.seed,
            source.revision,
            settings.cache,
            lambda done, total: report(Progress("synthesize", done, total)),
        )
        rejected = [dataset.Encoded(row.prompt, tuple(answer)) for row, answer in zip(chosen, answers, strict=True)]

    # Here and not sooner: what came before drew from the same generator, or was read from the cache and did not.
    torch.manual_seed(recipe.seed)
    try:
        model = get_peft_model(
            model,
            LoraConfig(
                r=recipe.lora_rank,
                lora_alpha=recipe.lora_alpha,
                target_modules=list(recipe.lora_targets),
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        raise UserError(f"lora_targets does not fit {source.name}: {error}") from error
    seconds = _fit(model, recipe, chosen, rejected, tokenizer.eos_token_id, max_steps, report)
    card = Card(
        name=recipe.name,
        description=recipe.description,
        kind="lora",
        base=sources.HUB_NAME.get(recipe.base, recipe.base),
        tokenizer=fingerprint(tokenizer),
        license=recipe.license,
        data=f"{data.name} ({len(examples)} examples, {dataset.content_hash(examples)}), {recipe.data_license}",
        recipe={"name": recipe.name, "hash": recipe.hash, "loss": recipe.loss, "seconds": round(seconds)},
        beta=recipe.beta,
        tau=recipe.tau,
        mode=recipe.mode,
    )
    _save(model, card, out)
    return card


def _fit(model, recipe: Recipe, chosen, rejected, pad: int, max_steps: int | None, report: Report) -> float:
    """The optimiser's steps. Returns the seconds they took."""
    per_epoch = math.ceil(len(chosen) / recipe.batch_size)
    total = recipe.epochs * per_epoch if max_steps is None else min(max_steps, recipe.epochs * per_epoch)
    warmup = max(1, round(recipe.warmup * total))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def rate(step: int) -> float:
        done = max(0, step - warmup) / max(1, total - warmup)
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    order = torch.Generator().manual_seed(recipe.seed)
    model.train()
    started = time.perf_counter()
    step = 0
    while step < total:
        for batch in torch.randperm(len(chosen), generator=order).split(recipe.batch_size):
            better = _log_likelihood(model, [chosen[i] for i in batch], pad)
            if rejected is None:
                loss = losses.sft(better)
            else:
                worse = _log_likelihood(model, [rejected[i] for i in batch], pad)
                loss = losses.ram_sft(better, worse, recipe.alpha)
            if not torch.isfinite(loss):
                raise UserError(f"The loss is {loss.item()} at step {step + 1}: it diverged. Lower learning_rate.")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            step += 1
            report(Progress("train", step, total, loss.item(), time.perf_counter() - started))
            if step == total:
                break
    return time.perf_counter() - started


def _log_likelihood(model, rows: list[dataset.Encoded], pad: int) -> torch.Tensor:
    ids, mask, labels = dataset.collate(rows, pad)
    # The head is a fifth of a small model: it is run only from the last token of the shortest prompt on.
    keep = ids.shape[1] - min(len(row.prompt) for row in rows) + 1
    logits = model(ids, attention_mask=mask, logits_to_keep=keep).logits
    return losses.log_likelihood(logits, labels[:, -keep:])


def _save(model, card: Card, out: Path) -> None:
    """Write the package aside and put it in `out`'s place. float16 on disk: half the size, 11 bits of mantissa."""
    tensors = {k: v.to(torch.float16).contiguous() for k, v in get_peft_model_state_dict(model).items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError("The training diverged: the weights it left are not finite. Lower learning_rate.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".training-") as folder:
            aside = Path(folder) / "package"
            aside.mkdir()
            save_file(tensors, aside / lora.WEIGHTS, metadata={"format": "pt"})
            config = model.peft_config["default"]
            config.base_model_name_or_path = card.base
            config.inference_mode = True
            config.save_pretrained(aside)
            (aside / CARD).write_text(json.dumps(card.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
            if out.exists():
                os.replace(out, Path(folder) / "replaced")
            os.replace(aside, out)
    except OSError as error:
        raise StorageError(f"The aligner could not be written to {out}: {error.strerror or error}.") from error

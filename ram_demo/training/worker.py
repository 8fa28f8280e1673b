"""A run's own process: from a run folder to an aligner, stage by stage, each of which a later process can take up.

`python -m ram_demo.training.worker FOLDER`, or the same under `accelerate launch`. It never imports `ui`, and what it
knows it writes into the folder (`folder.py`). float32 master weights throughout (small steps cannot move bfloat16
ones), bfloat16 arithmetic where the machine multiplies it. Equal recipe, data, proposal and machine give equal weights.
"""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ram_demo.errors import UserError
from ram_demo.models import sources
from ram_demo.models.aligners import CARD, Card
from ram_demo.models.formats import multiplies_bfloat16
from ram_demo.models.proposal import end_ids, load_tokenizer
from ram_demo.models.sources import Source
from ram_demo.models.vocabulary import fingerprint
from ram_demo.settings import Settings, from_environment
from ram_demo.training import checkpoints, dataset, rows
from ram_demo.training.checkpoints import State
from ram_demo.training.dataset import Encoded
from ram_demo.training.fitting import Fit, Stopped
from ram_demo.training.folder import PACKAGE, RunFolder
from ram_demo.training.package import put
from ram_demo.training.recipe import PREFERENCES, Recipe
from ram_demo.training.synthesize import synthesize

Tell = Callable[..., None]
NICE = 10  # a page that answers people comes first


class Run:
    """One run in this process. Of several processes, the first alone writes."""

    def __init__(self, folder: RunFolder, settings: Settings, tell: Tell):
        config = folder.config()
        self.folder, self.settings = folder, settings
        self.recipe, self.data_file = Recipe.from_json(config["recipe"]), Path(config["data"])
        self.max_steps: int | None = config["max_steps"]
        # Half the arithmetic's width where that is quicker; the weights and their sums stay float32.
        quick = torch.cuda.is_available() or multiplies_bfloat16()
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if quick else "no")
        self.tell = tell if self.accelerator.is_main_process else lambda **_: None

    def carry_out(self) -> None:
        """Every stage to the end. Raises Stopped where it was asked to stop, UserError for what cannot be done."""
        recipe = self.recipe
        self.tell(kind="stage", stage="load", done=0, total=1)
        source = sources.resolve(recipe.base, self.settings.cache)
        tokenizer = load_tokenizer(source.path)
        if tokenizer.eos_token_id is None:
            raise UserError(f"{source.name} has no end-of-text token, so an aligner could not learn to end.")
        training, held_out, described = self._read(tokenizer)
        model = AutoModelForCausalLM.from_pretrained(
            source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).to(self.accelerator.device)
        self.tell(kind="stage", stage="load", done=1, total=1)
        if recipe.loss == "ram_sft":
            both = self._synthesize(model, source, tokenizer, [*training, *held_out])
            training, held_out = both[: len(training)], both[len(training) :]
        # Here and not sooner: what came before drew from the same generator, or was read from the cache and did not.
        torch.manual_seed(recipe.seed)
        model = self._trainable(model, source.name)

        def write(state: State, place: Path) -> None:
            package = place / PACKAGE
            package.mkdir()
            checkpoints.write_package(model, self._card(tokenizer, described, state), package)
            if recipe.method == "full":
                tokenizer.save_pretrained(package)

        fit = Fit(recipe, self.folder, self.accelerator, self.tell, model, tokenizer.eos_token_id, write)
        fit.run(training, held_out, self.max_steps)

    def _card(self, tokenizer, described: str, state: State) -> Card:
        recipe = self.recipe
        return Card(
            name=recipe.name,
            description=recipe.description,
            kind="lora" if recipe.method == "lora" else "model",
            base=sources.HUB_NAME.get(recipe.base, recipe.base),
            tokenizer=fingerprint(tokenizer),
            license=recipe.license,
            data=described,
            recipe={"name": recipe.name, "hash": recipe.hash, "loss": recipe.loss, "seconds": round(state.seconds)},
            beta=recipe.beta,
            tau=recipe.tau,
            mode=recipe.mode,
        )

    # Data -----------------------------------------------------------------------------------------------------------

    def _read(self, tokenizer) -> tuple[list[Encoded], list[Encoded], str]:
        recipe = self.recipe
        if not self.data_file.is_file() and recipe.data_source:
            raise UserError(f"{self.data_file} is not there; its source is {recipe.data_source}.")
        table = rows.read(self.data_file)
        if not recipe.leave_out_bad_rows:
            rows.require_whole(self.data_file, table)
        if recipe.loss in PREFERENCES and any(example.rejected is None for example in table.examples):
            raise UserError(f"{recipe.loss} needs a rejected answer in every row, and {self.data_file.name} has none.")
        training, held_out = rows.split(table.examples, recipe.held_out, recipe.seed)
        found = rows.doubles(training, held_out)
        lenient = recipe.leave_out_bad_rows
        encoded = [dataset.encode(tokenizer, part, recipe.max_tokens, lenient) for part in (training, held_out)]
        if not encoded[0]:
            raise UserError(
                f"Every example is longer than {recipe.max_tokens} tokens, which is what the recipe allows."
            )
        too_long = len(table.examples) - sum(map(len, encoded))
        self.tell(
            kind="data", form=table.form, training=len(encoded[0]), held_out=len(encoded[1]),
            left_out=len(table.problems) + too_long,
            duplicates=found.duplicates, repeated=found.repeated, leaks=found.leaks,
        )  # fmt: skip
        if recipe.loss not in PREFERENCES:
            encoded = [[replace(row, rejected=None) for row in part] for part in encoded]
        content = dataset.content_hash(table.examples)
        described = f"{self.data_file.name} ({len(table.examples)} examples, {content}), {recipe.data_license}"
        return encoded[0], encoded[1], described

    def _synthesize(self, model, source: Source, tokenizer, examples: list[Encoded]) -> list[Encoded]:
        """Each example with a y- of the proposal's own."""
        recipe = self.recipe
        context = getattr(model.config, "max_position_embeddings", math.inf)
        if max(len(row.prompt) for row in examples) + recipe.synthesis_tokens > context:
            raise UserError(f"synthesis_tokens is {recipe.synthesis_tokens}; {source.name} reads {context} in all.")
        with self.accelerator.main_process_first():  # the others then find it in the cache
            answers = synthesize(
                model.eval(),
                [row.prompt for row in examples],
                end_ids(source.path, tokenizer),
                recipe.synthesis_tokens,
                recipe.seed,
                source.revision,
                self.settings.cache,
                lambda done, total: self.tell(kind="stage", stage="synthesize", done=done, total=total),
            )
        return [replace(row, rejected=tuple(answer)) for row, answer in zip(examples, answers, strict=True)]

    def _trainable(self, model, base: str):
        """The whole model, or the model under an adapter that alone is trained."""
        recipe = self.recipe
        if recipe.method == "full":
            return model
        config = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            target_modules=list(recipe.lora_targets),
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"lora_targets does not fit {base}: {error}") from error


def work(folder: RunFolder, settings: Settings, tell: Tell = lambda **_: None) -> str:
    """Carry a run out in this process and note in its folder how it ended: "done", "stopped" or "failed".

    Everything that happens is appended to the folder and passed on to tell. A user's mistake is re-raised as UserError
    after it was noted; so is a defect.
    """

    def both(**event) -> None:
        folder.tell(**event)
        tell(**event)

    folder.work_on(os.getpid())
    try:
        both(kind="started")
        Run(folder, settings, both).carry_out()
    except Stopped:
        how, note = "stopped", ""
    except Exception as error:
        note = str(error) if isinstance(error, UserError) else "A defect, not your mistake: it is in the run's log."
        both(kind="ended", how="failed", note=note)
        raise
    else:
        how, note = "done", ""
    finally:
        folder.leave()
    both(kind="ended", how=how, note=note)
    return how


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    run: Path,
    settings: Settings,
    max_steps: int | None,
    tell: Tell,
    resume: bool = False,
) -> str:
    """Train in this process, as the command line does, and put the package into `out`. Returns how it ended.

    run: the run's own folder; to resume goes on from what lies there. max_steps cuts the run
    short (the learning rate's course is then that of the shorter run). The package is the checkpoint with the lowest
    held-out loss, else the last. Raises UserError for bad data, StorageError if `out` cannot be written.
    """
    if out.exists() and not (out / CARD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is no aligner, so it is not replaced; name another folder.")
    folder = RunFolder(run)
    if folder.is_worked_on:
        raise UserError(f"{out.name} is being trained by another process; stop it, or name another folder.")
    if not resume:
        folder = RunFolder.create(folder.path, asdict(recipe), data, max_steps)
    elif not folder.path.is_dir():
        raise UserError(f"There is no run at {folder.path} to resume.")
    elif Recipe.from_json(folder.config()["recipe"]) != recipe:
        raise UserError("The recipe is not the one that the run was started with; start anew, without --resume.")
    folder.queue()
    how = work(folder, settings, tell)
    if folder.result:
        put(folder.result, out)
    return how


def main(path: str) -> int:
    os.nice(NICE)
    try:
        work(RunFolder(Path(path)), from_environment())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

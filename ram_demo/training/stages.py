"""What a run does, stage by stage: examples, a new proposal if one is wanted, y-, training, calibration, cost.

Each stage leaves what a later process can take up. float32 master weights throughout (small steps cannot move bfloat16
ones), bfloat16 arithmetic where the machine multiplies it. Equal recipe, data, proposal and machine give equal weights.
Knows the pieces; knows nothing of processes, queues or pages.
"""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from ram_demo.errors import UserError
from ram_demo.evaluation import calibrate, coverage, samples
from ram_demo.evaluation.likelihood import Text
from ram_demo.models import sources
from ram_demo.models.aligners import Card, read_card, write_card
from ram_demo.models.formats import multiplies_bfloat16
from ram_demo.models.proposal import end_ids, load_tokenizer
from ram_demo.models.sources import Source
from ram_demo.models.vocabulary import fingerprint
from ram_demo.settings import Settings
from ram_demo.training import checkpoints, contrast, cost, dataset, rows, server
from ram_demo.training.checkpoints import State
from ram_demo.training.dataset import Encoded
from ram_demo.training.fitting import Fit, Stopped
from ram_demo.training.folder import HELD_OUT, PACKAGE, RunFolder
from ram_demo.training.package import put
from ram_demo.training.recipe import PREFERENCES, Recipe
from ram_demo.training.synthesize import synthesize

disable_progress_bar()  # how far a run is, its events say

Tell = Callable[..., None]
SAMPLED = 3  # prompts that are answered at each checkpoint
CALIBRATED = 24  # held-out examples that the calibration reads, and that a package carries for the next one


class Run:
    """One run in this process. Of several processes, the first alone writes. inner: it is the warm-up of another run,
    whose wishes it hears."""

    def __init__(self, folder: RunFolder, settings: Settings, tell: Tell, wishes: RunFolder | None = None):
        config = folder.config()
        self.folder, self.settings, self.wishes = folder, settings, wishes or folder
        self.recipe, self.data_file = Recipe.from_json(config["recipe"]), Path(config["data"])
        self.max_steps: int | None = config["max_steps"]
        # Half the arithmetic's width where that is quicker; the weights and their sums stay float32.
        quick = torch.cuda.is_available() or multiplies_bfloat16()
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if quick else "no")
        self.tell = tell if self.accelerator.is_main_process else lambda **_: None

    def carry_out(self) -> None:
        """Every stage to the end. Raises Stopped where it was asked to stop, UserError for what cannot be done."""
        source = sources.resolve(self.recipe.base, self.settings.cache)
        if self.recipe.warm_up_epochs:
            source = self._warm_up()
        training, held_out = self._fit(source)
        self._tell_cost_of_all(source, training)
        self._calibrate(held_out)

    def _fit(self, source: Source) -> tuple[list[Encoded], list[Encoded]]:
        """From the examples to the newest checkpoint."""
        recipe = self.recipe
        self.tell(kind="stage", stage="load", done=0, total=1)
        self.source, self.tokenizer = source, load_tokenizer(source.path)
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"{source.name} has no end-of-text token, so an aligner could not learn to end.")
        training, held_out, anchors, described = self._read()
        if self.accelerator.is_main_process:
            _write_examples(self.folder.path / HELD_OUT, held_out)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                attn_implementation="sdpa",  # packed rows come with a mask of their own
            ).to(self.accelerator.device)  # fmt: skip
        except ValueError as error:
            raise UserError(f"{source.name} cannot be trained here: {str(error).splitlines()[0]}") from error
        self.tell(kind="stage", stage="load", done=1, total=1)
        if recipe.loss == "ram_sft":
            both = self._synthesize(model, [*training, *held_out])
            training, held_out = both[: len(training)], both[len(training) :]
        if anchors:
            answers = self._answers(model, anchors)
            anchors = [
                replace(row, response=tuple(answer), is_anchor=True)
                for row, answer in zip(anchors, answers, strict=True)
            ]
        # Here and not sooner: what came before drew from the same generator, or was read from the cache and did not.
        torch.manual_seed(recipe.seed)
        model = self._trainable(model)
        if anchors and self.folder.checkpoints():
            contrast.keep(model)  # the directions lie in the checkpoint
        elif anchors:
            with self.accelerator.autocast():
                contrast.look_away(model, training, anchors, self.tokenizer.eos_token_id, self._progress("contrast"))
        training += anchors

        def write(state: State, weights: dict[str, torch.Tensor], place: Path) -> None:
            package = place / PACKAGE
            package.mkdir()
            checkpoints.write_package(model, weights, self._card(described, state), package)
            if recipe.method == "full":
                self.tokenizer.save_pretrained(package)
            if not recipe.data_source:  # data that are had elsewhere do not travel with the aligner
                _write_examples(package / HELD_OUT, held_out[:CALIBRATED])

        shown = [samples.Asked(row.example.question, _text(row)) for row in (held_out or training)[:SAMPLED]]

        def answer(step: int) -> None:
            package = self.folder.checkpoints()[-1] / PACKAGE
            self.folder.sample(step=step, answers=samples.answer(self._bench, package, shown, threading.Event()))

        is_inner = self.wishes is not self.folder
        fit = Fit(recipe, self.folder, self.accelerator, self.tell, model, self.tokenizer.eos_token_id, write,
                  (lambda step: None) if is_inner else answer, self.wishes)  # fmt: skip
        try:
            fit.run(training, held_out, self.max_steps)
        except Stopped:
            if not is_inner:
                self._calibrate(held_out)  # what was learnt is to be used, so it needs its values
            raise
        return training, held_out

    @cached_property
    def _bench(self):
        """What answers the samples and calibrates: the proposal as people decode with it."""
        return samples.bench_beside(self.settings, self.source)

    def _card(self, described: str, state: State) -> Card:
        recipe = self.recipe
        made = {"name": recipe.name, "hash": recipe.hash, "loss": recipe.loss, "seconds": round(state.seconds)}
        if state.looks:
            made["held_out"] = state.looks
        return Card(
            name=recipe.name,
            description=recipe.description,
            kind="lora" if recipe.method == "lora" else "model",
            base=sources.HUB_NAME.get(self.source.name, str(self.source.path)),
            tokenizer=fingerprint(self.tokenizer),
            license=recipe.license,
            data=described,
            recipe=made,
            beta=1.0 if recipe.beta is None else recipe.beta,
            tau=recipe.tau,
            mode=recipe.mode,
        )

    # Data -----------------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[Encoded], list[Encoded], list[Encoded], str]:
        """What is trained on, what is held out, the anchors still without answers, and the card's words for it all."""
        recipe = self.recipe
        if not self.data_file.is_file() and recipe.data_source:
            raise UserError(f"{self.data_file} is not there; its source is {recipe.data_source}.")
        table = rows.read(self.data_file)
        if not recipe.leave_out_bad_rows:
            rows.require_whole(self.data_file, table)
        if recipe.loss in PREFERENCES:
            _require_rejected(recipe.loss, table)
        training, held_out = rows.split(table.examples, recipe.held_out, recipe.seed)
        found = rows.doubles(training, held_out)
        lenient = recipe.leave_out_bad_rows
        encoded = [dataset.encode(self.tokenizer, part, recipe.max_tokens, lenient) for part in (training, held_out)]
        if not encoded[0]:
            raise UserError(
                f"Every example is longer than {recipe.max_tokens} tokens, which is what the recipe allows."
            )
        too_long = len(table.examples) - sum(map(len, encoded))
        anchors = {file: rows.read_prompts(file) for file in map(Path, recipe.anchors)}
        prompts = [prompt for part in anchors.values() for prompt in part]
        asked = dataset.encode(self.tokenizer, prompts, recipe.max_tokens, lenient)
        self.tell(
            kind="data", form=table.form, training=len(encoded[0]), held_out=len(encoded[1]), anchors=len(asked),
            left_out=len(table.problems) + too_long,
            duplicates=found.duplicates, repeated=found.repeated, leaks=found.leaks,
        )  # fmt: skip
        if recipe.loss not in PREFERENCES:
            encoded = [[replace(row, rejected=None) for row in part] for part in encoded]
        files = {self.data_file: table.examples, **anchors}
        named = [f"{file.name} ({len(part)} examples, {dataset.content_hash(part)})" for file, part in files.items()]
        return *encoded, asked, f"{' and '.join(named)}, {recipe.data_license}"

    def _synthesize(self, model, examples: list[Encoded]) -> list[Encoded]:
        """Each example with a y- of the proposal's own."""
        answers = self._answers(model, examples)
        if self.accelerator.is_main_process:
            texts = [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
            self.tell(kind="coverage", **coverage.measure(answers, texts))
        return [replace(row, rejected=tuple(answer)) for row, answer in zip(examples, answers, strict=True)]

    def _answers(self, model, examples: list[Encoded]) -> list[list[int]]:
        """The proposal's answer to each prompt as ids, from this machine or from a server."""
        recipe, source, progress = self.recipe, self.source, self._progress("synthesize")
        context = getattr(model.config, "max_position_embeddings", math.inf)
        if max(len(row.prompt) for row in examples) + recipe.synthesis_tokens > context:
            raise UserError(f"synthesis_tokens is {recipe.synthesis_tokens}; {source.name} reads {context} in all.")
        with self.accelerator.main_process_first():  # the others then find it in the cache
            if recipe.answers_from:
                return server.synthesize(
                    recipe.answers_from, recipe.answers_model, [row.example.prompt for row in examples], self.tokenizer,
                    recipe.synthesis_tokens, recipe.seed, self.settings.cache, progress,
                )  # fmt: skip
            return synthesize(
                model.eval(), [row.prompt for row in examples], end_ids(source.path, self.tokenizer),
                recipe.synthesis_tokens, recipe.seed, source.revision, self.settings.cache, progress,
            )  # fmt: skip

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(kind="stage", stage=stage, done=done, total=total)

    def _trainable(self, model):
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
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"lora_targets does not fit {self.source.name}: {error}") from error
        if self.accelerator.mixed_precision == "bf16":
            # What is frozen and multiplied in bfloat16 is cast once, not at every forward.
            for module in adapted.modules():
                if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), torch.nn.Linear):
                    module.get_base_layer().to(torch.bfloat16)
        return adapted

    # Before and after -------------------------------------------------------------------------------------------------

    def _warm_up(self) -> Source:
        """A new proposal: every weight of the base by plain `sft` on the same examples, as a run inside this one. It is
        put among the user's models, where `RAM_DEMO_MODEL` can name it."""
        recipe = self.recipe
        inner = RunFolder(self.folder.path / "proposal")
        first = replace(
            recipe, loss="sft", method="full", epochs=recipe.warm_up_epochs, learning_rate=recipe.warm_up_rate,
            warm_up_epochs=0, anchors=(), answers_from="", answers_model="",
        )  # fmt: skip
        out = self.settings.own_models / recipe.name

        def tell(**event) -> None:
            inner.tell(**event)
            if event["kind"] == "step":
                self.tell(kind="stage", stage="warm-up", done=event["step"], total=event["total"])

        with self.accelerator.main_process_first():
            if not (inner.path / "config.json").is_file():
                RunFolder.create(inner.path, asdict(first), self.data_file, None)
        if not any(event["kind"] == "ended" for event in inner.events()):
            run = Run(inner, self.settings, tell, wishes=self.folder)
            run._fit(sources.resolve(recipe.base, self.settings.cache))
            self.accelerator.free_memory()
            if self.accelerator.is_main_process:
                put(inner.result, out)
                inner.tell(kind="ended", how="done")
            self.accelerator.wait_for_everyone()
            self.tell(kind="proposal", path=str(out))
        return sources.resolve(str(out), self.settings.cache)

    def _tell_cost_of_all(self, source: Source, training: list[Encoded]) -> None:
        """What the same steps would take with every weight, by measuring a few of them."""
        if self.recipe.method == "lora" and self.accelerator.num_processes == 1:
            self.tell(kind="stage", stage="cost", done=0, total=1)
            measured = cost.full_step(source.path, self.accelerator, training, self.recipe, self.tokenizer.eos_token_id)
            self.tell(kind="full", seconds_a_step=round(measured, 3))

    def _calibrate(self, held_out: list[Encoded]) -> None:
        """Sweep strengths and gates with what is left of the run, and put what suits into the package's card."""
        package = self.folder.result
        if package is None or not held_out or not self.accelerator.is_main_process:
            return
        bench = self._bench

        def progress(words: str, share: float) -> None:
            self.tell(kind="stage", stage="calibrate", done=round(100 * share), total=100)

        found = calibrate.calibrate(
            bench, samples.load(bench, package), list(map(_text, held_out[:CALIBRATED])), progress
        )
        self.tell(kind="calibration", **found.to_json())
        card = read_card(package)
        calibrated = calibrate.in_card(card, found)
        if self.recipe.beta is not None:  # what the recipe says stands
            calibrated = replace(calibrated, beta=card.beta, tau=card.tau)
        write_card(package, replace(calibrated, name=self.recipe.name))


def _write_examples(file: Path, examples: list[Encoded]) -> None:
    lines = [json.dumps(row.example.to_json(), ensure_ascii=False) for row in examples]
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _require_rejected(loss: str, table: rows.Table) -> None:
    lines = [example.line for example in table.examples if example.rejected is None]
    if lines:
        raise UserError(f"{loss} needs a rejected answer in every row, and line {lines[0]} has none.")


def _text(row: Encoded) -> Text:
    return Text(row.prompt, row.response)

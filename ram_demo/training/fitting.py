"""The optimiser's steps: from the newest checkpoint on, looking at held-out examples and keeping what was learnt.

Runs in one process or in several that share each batch (accelerate). Knows encoded examples and a trainable model;
knows nothing of where they came from.
"""

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ram_demo.errors import UserError
from ram_demo.training import checkpoints, losses
from ram_demo.training.checkpoints import State
from ram_demo.training.dataset import Encoded
from ram_demo.training.folder import RunFolder
from ram_demo.training.recipe import PREFERENCES, Recipe
from ram_demo.training.scoring import Scorer, batches

SCORED = 8  # rows a forward where nothing is learnt


class Stopped(Exception):
    """Somebody asked the run to stop; what it had learnt lies in its newest checkpoint."""


def course(step: int, total: int, warmup: float) -> float:
    """The learning rate's share at a step: a linear warm-up over a share of the steps, then a cosine to zero."""
    first = max(1, round(warmup * total))
    done = max(0, step - first) / max(1, total - first)
    return min((step + 1) / first, 0.5 * (1 + math.cos(math.pi * done)))


class Fit:
    """write: puts the package as it now is into an empty folder, for a checkpoint; shown: called after each, with its
    step; wishes: the folder that may ask to stop."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        accelerator: Accelerator,
        tell: Callable[..., None],
        model: nn.Module,
        pad: int,
        write: Callable[[State, dict[str, Tensor], Path], None],
        shown: Callable[[int], None],
        wishes: RunFolder,
    ):
        self.shown, self.wishes = shown, wishes
        self.recipe, self.folder, self.accelerator, self.tell, self.write = recipe, folder, accelerator, tell, write
        self.model = model
        optimiser = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.scorer, self.optimiser = accelerator.prepare(Scorer(model, pad, bool(recipe.anchors)), optimiser)
        # Only now: where processes hold a share each, these are other parameters than before.
        self.weights = [p for p in model.parameters() if p.requires_grad]
        done = folder.checkpoints()
        self.state = checkpoints.load(model, self.optimiser, done[-1]) if done else State()

    def run(self, training: list[Encoded], held_out: list[Encoded], max_steps: int | None) -> State:
        """To the end. Raises Stopped where it was asked to stop, UserError where it diverged."""
        recipe, state = self.recipe, self.state
        per_epoch = math.ceil(math.ceil(len(training) / recipe.batch_size) / recipe.accumulate)
        total = min(max_steps or recipe.epochs * per_epoch, recipe.epochs * per_epoch)
        every = recipe.checkpoint_every or max(1, total // 10)
        references = [self._references(part) for part in (training, held_out)]
        if state.step == 0:
            self._look(held_out, references[1])
        began = time.perf_counter() - state.seconds
        for step, micro in self._steps(training, total):
            self._stop_if_asked()
            self.scorer.train()
            for group in self.optimiser.param_groups:
                group["lr"] = recipe.learning_rate * course(step, total, recipe.warmup)
            loss = sum(self._learn(training, references[0], batch, len(micro)) for batch in micro)
            if not math.isfinite(loss):
                raise UserError(f"The loss is {loss} at step {step + 1}: it diverged. Lower learning_rate.")
            self.accelerator.clip_grad_norm_(self.weights, recipe.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            state.step, state.seconds = step + 1, time.perf_counter() - began
            state.tokens += sum(training[i].length for batch in micro for i in batch)
            self.tell(kind="step", step=state.step, total=total, loss=loss, seconds=round(state.seconds, 3))
            if state.step % every == 0 or state.step == total:
                found = self._look(held_out, references[1])
                self._checkpoint(found)
                began = time.perf_counter() - state.seconds  # looking is no training
        self._tell_cost()
        return state

    def _steps(self, training: Sequence[Encoded], total: int) -> Iterator[tuple[int, list[list[int]]]]:
        """(step, its batches) from where the run stands: the same in every process and after every resume."""
        step, epoch = 0, 0
        while step < total:
            made = batches(training, self.recipe.batch_size, self.recipe.seed, epoch)
            for at in range(0, len(made), self.recipe.accumulate):
                if self.state.step <= step < total:
                    yield step, made[at : at + self.recipe.accumulate]
                step += 1
            epoch += 1

    def _learn(self, training: list[Encoded], references: Tensor | None, batch: list[int], parts: int) -> float:
        """One batch's gradient, of so many that make a step. Of several processes each scores its share of the rows.

        Returns its part of the step's loss."""
        share = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        # Every process must come to the exchange of gradients: one without a share brings the first row, times zero.
        scored = share or batch[:1]
        each, _, _ = self._objective([training[i] for i in scored], None if references is None else references[scored])
        # accelerate averages the gradients of its processes; the whole batch's mean is what is wanted.
        weight = self.accelerator.num_processes / (len(batch) * parts) if share else 0.0
        part = each.sum() * weight
        self.accelerator.backward(part)
        return float(self.accelerator.reduce(part.detach(), "mean"))

    def _objective(self, batch: list[Encoded], references: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each row, and log Q of its two answers, float32 [B] each. references: the same two before
        training, [B, 2], where the loss compares with them."""
        recipe = self.recipe
        answers, apart = self._score(batch)
        better, bad = answers.unbind(-1)
        if recipe.loss == "sft":
            loss = losses.sft(better)
        elif recipe.loss == "ram_sft":
            loss = losses.ram_sft(better, bad, recipe.alpha)
        elif recipe.loss == "ram_dpo":
            loss = losses.ram_dpo(better, bad, recipe.dpo_beta)
        else:
            loss = losses.dpo(better, bad, *references.unbind(-1), recipe.dpo_beta)
        is_anchor = torch.tensor([row.is_anchor for row in batch], device=loss.device)
        return torch.where(is_anchor, losses.anchor(apart, recipe.anchor), loss), better, bad

    def _score(self, rows: list[Encoded]) -> tuple[Tensor, Tensor]:
        with self.accelerator.autocast():
            return self.scorer(rows)

    @torch.no_grad()
    def _references(self, rows: list[Encoded]) -> Tensor | None:
        """What the model says of both answers before it has learnt anything, [N, 2]: for `dpo` alone."""
        if self.recipe.loss != "dpo":
            return None
        self.scorer.eval()
        unchanged = getattr(self.model, "disable_adapter", None)
        if unchanged is None and self.state.step:
            raise UserError("A dpo run of a whole model cannot be resumed: what it began from is no longer there.")
        found = []
        for at in range(0, len(rows), SCORED):
            part = rows[at : at + SCORED]
            with unchanged() if unchanged else nullcontext():
                found.append(self._score(part)[0])
        return torch.cat(found) if found else torch.zeros(0, 2)

    @torch.no_grad()
    def _look(self, held_out: list[Encoded], references: Tensor | None) -> float | None:
        """Score what is not trained on. Returns its loss, None if nothing is held out. By the loss checkpoints are told
        apart, as the share of pairs taken the right way round moves by chance where few are held out."""
        if not held_out:
            return None
        self.scorer.eval()
        found, likelihood, right = [], 0.0, []
        for at in range(0, len(held_out), SCORED):
            part = held_out[at : at + SCORED]
            before = None if references is None else references[at : at + SCORED]
            each, better, bad = self._objective(part, before)
            found += each.tolist()
            likelihood += float(better.sum())
            if self.recipe.loss in PREFERENCES:
                right += losses.accuracy(better, bad).tolist()
            self.tell(kind="stage", stage="look", done=len(found), total=len(held_out))
        look = {
            "loss": statistics.fmean(found),
            "nats_a_token": -likelihood / sum(len(row.response) for row in held_out),
            "accuracy": statistics.fmean(right) if right else None,
        }
        self.state.look(look, len(held_out))
        self.tell(kind="held_out", step=self.state.step, **look)
        return look["loss"]

    def _checkpoint(self, loss: float | None) -> None:
        """loss: on held-out examples; of two equals the later has seen more."""
        state = self.state
        is_best = loss is not None and (state.best is None or loss <= state.best)
        if is_best:
            state.best = loss
        found = checkpoints.parts(self.model, self.optimiser)  # by all processes: each may hold a share
        if self.accelerator.is_main_process:
            with self.folder.checkpoint(state.step) as place:
                checkpoints.save(found, state, place)
                self.write(state, found[checkpoints.WEIGHTS], place)
            if is_best:
                self.folder.keep_best(self.folder.checkpoints()[-1])
            self.shown(state.step)
        self.accelerator.wait_for_everyone()
        self.tell(kind="checkpoint", step=state.step, best=is_best)

    def _stop_if_asked(self) -> None:
        asked = torch.tensor(float(self.wishes.is_asked_to_stop), device=self.accelerator.device)
        if float(self.accelerator.reduce(asked, "sum")):  # all leave at the same step
            newest = self.folder.checkpoints()
            if not newest or not newest[-1].name.endswith(f"-{self.state.step}"):
                self._checkpoint(None)
            raise Stopped

    def _tell_cost(self) -> None:
        trained, everything = (sum(p.numel() for p in ps) for ps in (self.weights, self.model.parameters()))
        self.tell(
            kind="cost",
            seconds=round(self.state.seconds, 1),
            tokens_per_s=round(self.state.tokens / max(self.state.seconds, 1e-9), 1),
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            trainable=trained,
            parameters=everything,
            processes=self.accelerator.num_processes,
        )

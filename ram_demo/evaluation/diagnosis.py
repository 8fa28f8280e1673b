"""What goes wrong with a run, by the signatures that the RAM paper names, and what to try. Pure functions over what it
has told: its events and samples as `training/folder.py` keeps them.

Answers are held to the thresholds of `health.py`. Knows numbers; knows nothing of models, files or pages.
"""

import math
import statistics
from collections.abc import Sequence

from ram_demo.evaluation.health import LOW_SUPPORT, REPEATED, UNMOVED, Finding

RISES = 1.15  # the training loss of the last fifth over the first fifth's: it diverges
OVER = 1.05  # the held-out loss over its lowest, where training still falls: it learns by heart
THIN_DISTINCT_2, THIN_SELF_BLEU = 0.35, 50.0  # y- that say much the same
FEW = 10  # steps before anything can be said of a curve


def diagnose(events: Sequence[dict], samples: Sequence[dict]) -> list[Finding]:
    """Everything that looks wrong so far, the gravest first."""
    found = [_divergence(events), _over_fit(events), _coverage(events), *_answers(samples)]
    return [finding for finding in found if finding]


def _divergence(events: Sequence[dict]) -> Finding | None:
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    failed = next((e for e in events if e["kind"] == "ended" and "diverged" in e.get("note", "")), None)
    advice = "Lower the learning rate to a third, or let more of the steps warm up."
    if failed or not all(map(math.isfinite, losses)):
        return Finding("divergence", "The loss is no number any more: the run diverged.", advice)
    part = len(losses) // 5
    if len(losses) >= FEW and part:
        first, last = statistics.median(losses[:part]), statistics.median(losses[-part:])
        if first > 0 and last > RISES * first:
            return Finding("divergence", f"The training loss rises, from {first:.3g} to {last:.3g}.", advice)
    return None


def _over_fit(events: Sequence[dict]) -> Finding | None:
    looks = {event["step"]: event["loss"] for event in events if event["kind"] == "held_out"}
    losses = {event["step"]: event["loss"] for event in events if event["kind"] == "step"}
    if len(looks) < 3 or len(losses) < FEW:
        return None
    best, last = min(looks, key=looks.get), max(looks)
    before = [loss for step, loss in losses.items() if step <= best]
    after = [loss for step, loss in losses.items() if step > best]
    if best == last or not before or not after or looks[last] <= OVER * looks[best]:
        return None
    if statistics.median(after) >= statistics.median(before):
        return None
    return Finding(
        "over-fit",
        f"The held-out loss has risen from {looks[best]:.3g} at step {best} to {looks[last]:.3g}, while training fell.",
        f"Stop: the checkpoint of step {best} is the one that is kept. Next time fewer epochs, a lower LoRA rank, or "
        "more examples.",
    )


def _coverage(events: Sequence[dict]) -> Finding | None:
    seen = next((event for event in reversed(events) if event["kind"] == "coverage"), None)
    if not seen or (seen["distinct_2"] >= THIN_DISTINCT_2 and seen["self_bleu"] <= THIN_SELF_BLEU):
        return None
    return Finding(
        "thin coverage",
        f"The proposal's own answers resemble one another: distinct-2 {seen['distinct_2']:.2f}, "
        f"Self-BLEU {seen['self_bleu']:.0f}.",
        "Use prompts that differ more, or longer answers (synthesis_tokens).",
    )


def _answers(samples: Sequence[dict]) -> list[Finding]:
    """From the answers at the newest checkpoint, together; each one's own findings are beside it."""
    if not samples:
        return []
    found, newest = [], samples[-1]["answers"]

    def mean(name: str) -> float:
        return statistics.fmean(answer[name] for answer in newest)

    repeats, base = mean("repetition"), mean("base_repetition")
    if repeats > base + REPEATED:
        found.append(
            Finding(
                "repetition",
                f"The aligned answers repeat themselves: {repeats:.0%} of their runs of four tokens, "
                f"the base's {base:.0%}.",
                "Lower the strength or the learning rate, or take an earlier checkpoint.",
            )
        )
    if mean("support") < LOW_SUPPORT:
        found.append(
            Finding(
                "support collapse",
                f"The proposal offers what the aligner wants with only {mean('support'):.0%} of the aligner's mass.",
                "Widen the net (top-p, the proposal's temperature), or let the recipe warm up a proposal on the same "
                "examples (warm_up_epochs).",
            )
        )
    elif mean("kl") < UNMOVED:
        found.append(
            Finding(
                "no effect yet",
                f"The aligner says almost what the proposal says: mean KL {mean('kl'):.3f}.",
                "Train longer, or raise the learning rate.",
            )
        )
    return found

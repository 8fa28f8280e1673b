"""Preference accuracy: of two answers, is the one that people chose the likelier one? Asked of the proposal, of the
aligner and of what is decoded, on pairs that were not trained on.

An answer's log-likelihood is the sum over its tokens (design, formula 10), and pi is over the whole vocabulary. Knows
the workbench; knows nothing of files, training or pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ram_demo.errors import UserError
from ram_demo.evaluation.calibrate import lane_of, log_pi, seats_of
from ram_demo.evaluation.likelihood import Text, read_along
from ram_demo.models.sources import Progress, silent
from ram_demo.workbench import Workbench


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers as ids."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]


def measure(bench: Workbench, name: str, pairs: Sequence[Pair], progress: Progress = silent) -> dict:
    """Shares of the pairs, 0 to 1: P prefers the chosen answer (base), Q does (aligner), pi as the card recommends it
    does (aligned), and training moved Q that way (moved): its gain over P, the implicit reward of DPO.

    Raises UserError if the aligner cannot weigh here, or there are no pairs.
    """
    if not pairs:
        raise UserError("There are no pairs to measure preferences on.")
    lane = lane_of(bench, name)
    weigher = lane.weighers[0]
    texts = [Text(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    likely = torch.zeros(len(texts), 3, dtype=torch.float64)
    tokens = sum(len(text.answer) for text in texts)
    told = max(1, tokens // 100)  # a percent
    with bench.loop.between():
        for at, (which, token, (log_p, log_q, *log_q0)) in enumerate(read_along(seats_of(bench, lane), texts)):
            if at % told == 0:
                progress(f"What is said of {len(pairs)} pairs, {at / tokens:.0%}", at / tokens)
            gated = weigher.tau is not None and float((log_p.exp() * (log_p - log_q)).sum()) > weigher.tau
            log_aligned = log_p if gated else log_pi(lane.mode, weigher.beta, log_p, log_q, log_q0)
            likely[which] += torch.stack([log_p[token], log_q[token], log_aligned[token]])
    base, aligner, aligned = (likely[0::2] - likely[1::2]).unbind(-1)
    margins = {"base": base, "aligner": aligner, "aligned": aligned, "moved": aligner - base}
    return {
        "pairs": len(pairs),
        **{who: round(float((margin > 0).double().mean()), 3) for who, margin in margins.items()},
    }

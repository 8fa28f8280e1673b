"""How varied a set of answers is: thin coverage teaches an aligner to turn away from a few phrases only.

Knows answers as ids and texts; knows nothing of who gave them.
"""

import statistics
from collections.abc import Sequence

from sacrebleu.metrics import BLEU

from ram_demo.evaluation.answers import distinct

COMPARED = 100  # answers that Self-BLEU looks at: its cost grows with their square


def measure(answers: Sequence[Sequence[int]], texts: Sequence[str]) -> dict:
    """distinct-1, distinct-2 (over tokens, 0 to 1) and Self-BLEU (0 to 100, Zhu et al., arXiv 1802.01886)."""
    return {
        "answers": len(answers),
        "distinct_1": round(distinct(answers, 1), 3),
        "distinct_2": round(distinct(answers, 2), 3),
        "self_bleu": round(self_bleu(texts), 1),
    }


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU of each text with all the others as its references; 0 for fewer than two."""
    told = [text for text in texts[:COMPARED] if text.strip()]
    if len(told) < 2:
        return 0.0
    bleu = BLEU(effective_order=True)
    return statistics.fmean(bleu.sentence_score(text, told[:i] + told[i + 1 :]).score for i, text in enumerate(told))

"""What can be counted in answers: length, how they end, sentences, refusals, repetition, variety. Pure functions.

Knows traces; knows nothing of models.
"""

import re
import statistics
from collections.abc import Iterable, Sequence

from ram_demo.decoding.trace import Trace

SHORT_TOKENS = 80  # an answer that ends within so many is to the point
SENTENCE_WORDS = 30
GRAM = 4  # tokens in a row that count as repeated
DECLINING = (
    "can ?not|can't|won't|will not|am unable|am not able|am sorry|do not feel comfortable|don't feel comfortable"
)
REFUSALS = re.compile(rf"\b(i|we) ({DECLINING})\b|\bi'm (sorry|unable|not able)\b|\bas an ai\b", re.IGNORECASE)
OPENING = 160  # characters in which a refusal shows


def summarise(traces: Sequence[Trace], markers: Sequence[str] = ()) -> dict:
    """Medians and shares over one lane's answers. markers: words that show a wanted style; an answer counts if it holds
    one of them as a word of its own."""
    tokens = [[step.token for step in trace.steps] for trace in traces]
    result = {
        "median_tokens": statistics.median(map(len, tokens)),
        "median_words": statistics.median(len(trace.text.split()) for trace in traces),
        "ended_by_itself": _share(trace.done == "eos" for trace in traces),
        f"ended_within_{SHORT_TOKENS}": _share(t.done == "eos" and len(t.steps) <= SHORT_TOKENS for t in traces),
        f"one_sentence_of_{SENTENCE_WORDS}_words": _share(map(is_one_sentence, traces)),
        "refused": _share(is_refusal(trace.text) for trace in traces),
        "repetition": round(statistics.fmean(map(repetition, tokens)), 4),
        "distinct_1": round(distinct(tokens, 1), 3),
        "distinct_2": round(distinct(tokens, 2), 3),
    }
    if markers:
        result["with_markers"] = _share(not set(markers).isdisjoint(words(trace.text)) for trace in traces)
    return result


def is_one_sentence(trace: Trace) -> bool:
    """Ended by itself, as one sentence of at most SENTENCE_WORDS words."""
    sentences = re.split(r"(?<=[.!?])[\"”’')]*\s+", trace.text.strip())
    return trace.done == "eos" and len(sentences) == 1 and 0 < len(sentences[0].split()) <= SENTENCE_WORDS


def is_refusal(text: str) -> bool:
    """Does it open with words that decline?"""
    return REFUSALS.search(text[:OPENING].replace("’", "'")) is not None


def repetition(tokens: Sequence[int]) -> float:
    """The share of an answer's runs of GRAM tokens that it had said before, 0 to 1."""
    said = said_before(tokens)
    return sum(said) / len(said) if said else 0.0


def said_before(tokens: Sequence[int]) -> list[bool]:
    """For each of an answer's runs of GRAM tokens, by its first token: has the answer said it before?"""
    known: set[tuple[int, ...]] = set()
    # `add` returns None, so each run is looked up first and known from then on.
    return [gram in known or bool(known.add(gram)) for gram in _grams(tokens, GRAM)]


def distinct(answers: Iterable[Sequence[int]], n: int) -> float:
    """distinct-n: different n-grams over all n-grams of the answers together (Li et al., arXiv 1510.03055)."""
    grams = [gram for tokens in answers for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def words(text: str) -> set[str]:
    return {word.strip('.,;:!?"()“”').lower() for word in text.replace("'", " ").replace("’", " ").split()}


def _grams(tokens: Sequence[int], n: int) -> Iterable[tuple[int, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def _share(values: Iterable[bool]) -> float:
    return round(statistics.fmean(values), 3)

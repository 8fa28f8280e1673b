"""Which votes count, by rule: pure functions of one vote and of what went before it. Knows nothing of databases.

A rule never deletes and never refuses: it says whether the vote counts and why, and the owner may say otherwise.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

# Nobody reads faster: scanning runs at about 600 words a minute (Carver, Reading Rate, 1990).
WORDS_PER_SECOND = 10.0
DUPLICATE = "duplicate prompt"
_OF_ITSELF = r"\b(?:i am|i'm|i be|my name is|call me|i am called)\s+(?:the\s+|an?\s+)?"


@dataclass(frozen=True)
class Verdict:
    """Whether a vote counts, and why it was looked at."""

    counts: bool
    why: str


def prompt_key(prompt: str) -> str:
    """The same for prompts that differ only in case and white space: sha256 of the normalised text, 64 digits."""
    normal = " ".join(prompt.casefold().split())
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()


def names_itself(answers: Iterable[tuple[str, str, str]]) -> Verdict | None:
    """Whether an answer says of itself which aligner it has, so that the vote was not blind; None where none does.

    answers: (side, label, text). A word that only happens to be an aligner's name is no such thing.
    """
    for side, label, text in answers:
        for name in (strength.rpartition(":")[0] for strength in label.split(",")):
            words = re.escape(name).replace("\\-", "[- ]").replace("_", "[_ ]")
            if name and re.search(_OF_ITSELF + words + r"\b", text.replace("’", "'"), re.IGNORECASE):
                return Verdict(False, f"names itself: answer {side.upper()} says that it is {name}")
    return None


def verdict(texts: tuple[str, ...], reading_seconds: float | None, voted_before: bool) -> Verdict | None:
    """What the rules say of a vote on these last answers; None where no rule has anything to say.

    Faster than the answers can be read: does not count. On a prompt that was voted on before: counts, and is marked, so
    that who reads the votes can leave it out. A vote that is both is told of as the first.
    """
    needed = sum(len(text.split()) for text in texts) / WORDS_PER_SECOND
    if reading_seconds is not None and reading_seconds < needed:
        return Verdict(False, f"too fast: {reading_seconds:.1f} s for what takes {needed:.1f} s to read")
    if voted_before:
        return Verdict(True, DUPLICATE)
    return None

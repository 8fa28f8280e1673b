"""What flows in and out of the store: battles, their turns, ballots and votes, frozen. Knows nothing of databases.

A label names who answered: the aligners and strengths of a lane ("concise:1.0", "a:1.0,b:2.0"), or "base".
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ram_demo.errors import UserError

CHOICES = ("a", "b", "tie", "both_bad")
SIDES = ("a", "b")
DONE = ("eos", "length", "stopped")
KINDS = ("compare", "pair", "strength", "placebo")
REASONS = ("useful", "correct", "clear", "tone", "too long", "repetitive", "unsafe", "did not follow")
LONGEST_COMMENT = 4000  # characters
BASE = "base"


@dataclass(frozen=True)
class Response:
    """One lane's answer as it was shown on one side. It has ended: done is eos, length or stopped.

    None stands for what is not known, as of an answer that was given elsewhere and imported.
    """

    lane: str
    aligners: str  # names and strengths, as in "concise:1.0"; empty for the base
    aligner_revision: str
    text: str
    done: str | None
    tokens: int | None
    tokens_per_s: float | None
    first_token_ms: float | None
    gated_share: float | None  # None too where no aligner was there to be gated
    mean_kl: float | None  # nats; None too where no aligner was there to be measured
    trace: dict[str, Any]

    @property
    def label(self) -> str:
        return self.aligners or BASE


@dataclass(frozen=True)
class Turn:
    """What was asked, and the two answers to it."""

    prompt: str
    a: Response
    b: Response


@dataclass(frozen=True)
class NewBattle:
    """A battle before anything was answered: what was asked first, by whom, and all that replays it."""

    prompt: str
    session: str
    seed: int | None
    mode: str
    settings: dict[str, Any]
    proposal: str
    proposal_revision: str
    kind: str = field(default="compare", kw_only=True)
    blind: bool = field(default=False, kw_only=True)
    category: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Battle(NewBattle):
    """A battle that has answers: `a` and `b` to its prompt, and the turns after it."""

    a: Response
    b: Response
    later: tuple[Turn, ...] = field(default=(), kw_only=True)

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (Turn(self.prompt, self.a, self.b), *self.later)


@dataclass(frozen=True)
class Ballot:
    """What a vote says besides its choice.

    span: (side, start, end), characters of that side's last answer. reading_seconds: from when the answers could first
    be read until the vote, by the server's clock; None where nobody measured.
    """

    reasons: tuple[str, ...] = ()
    comment: str = ""
    span: tuple[str, int, int] | None = None
    reading_seconds: float | None = None


@dataclass(frozen=True)
class VoteRow:
    """One vote with its battle, and whether it counts. Moments are aware and in UTC."""

    id: str
    created_at: datetime
    choice: str
    ballot: Ballot
    counts: bool
    why: str  # what the review that decides says; empty where there is none
    battle_id: str
    battle_created_at: datetime
    app_version: str
    imported: bool
    battle: Battle


def check_choice(choice: str) -> None:
    """Raises UserError for what is not in CHOICES."""
    if choice not in CHOICES:
        raise UserError(f"Unknown choice {choice!r}: choose one of {', '.join(CHOICES)}.")


def checked(ballot: Ballot) -> Ballot:
    """The ballot without control characters. Raises UserError for what cannot be meant."""
    unknown = [reason for reason in ballot.reasons if reason not in REASONS]
    if unknown:
        raise UserError(f"Unknown reason {unknown[0]!r}: choose among {', '.join(REASONS)}.")
    if len(ballot.comment) > LONGEST_COMMENT:
        raise UserError(f"The comment has {len(ballot.comment):,} characters; {LONGEST_COMMENT:,} are the most.")
    seconds = ballot.reading_seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"A reading time of {seconds} seconds cannot be.")
    if ballot.span is not None:
        side, start, end = ballot.span
        if side not in SIDES or not 0 <= start < end:
            raise UserError("The span that decided must lie in the last answer of side a or b.")
    comment = "".join(c for c in ballot.comment if c in "\n\t" or not _is_control(c))
    return Ballot(tuple(dict.fromkeys(ballot.reasons)), comment, ballot.span, seconds)


def _is_control(character: str) -> bool:
    """C0, delete and C1: nothing that a person types, and what terminals and logs obey."""
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0

"""What a person asks for: a prompt, lanes, settings; checked and put in words. Knows no models and runs nothing.

Both edges, the page and the command line, come through here, so a bad value gets the same sentence from each.
"""

import math
from dataclasses import dataclass, field

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.weights import MODES
from ram_demo.errors import UserError
from ram_demo.models.aligners import BASE

OWN_MODE = "auto"  # each lane in the mode that its aligners' cards recommend
MAX_STRENGTH = 10.0
MAX_PROMPT_CHARACTERS = 200_000
# What each setting may be: lowest, highest, and the words for it.
RANGES = {
    "candidates": (1, 100_000, "the number of candidates"),
    "temperature": (0, 10, "the final temperature"),
    "temperature_p": (0.05, 10, "the proposal's temperature"),
    "temperature_q": (0.05, 10, "the aligner's temperature"),
    "top_p": (0.01, 1, "top-p"),
    "top_k": (0, 1_000_000, "top-k"),
    "repetition_penalty": (0.5, 5, "the repetition penalty"),
    "seed": (0, 2**53 - 1, "the seed"),  # above it not every reader of JSON reads the same number
    "max_new_tokens": (1, 4096, "the length"),
}
WHOLE = ("candidates", "top_k", "seed", "max_new_tokens")


@dataclass(frozen=True)
class Choice:
    """An aligner by name, its strength and its gate; None stands for the strength that its card recommends, and for the
    request's gate."""

    name: str
    beta: float | None = None
    tau: str | float | None = None

    def __post_init__(self):
        if self.beta is not None and not (math.isfinite(self.beta) and 0 <= self.beta <= MAX_STRENGTH):
            raise UserError(f"The strength of {self.name} is {self.beta}; it must be from 0 to {MAX_STRENGTH:g}.")
        if isinstance(self.tau, int | float) and not (math.isfinite(self.tau) and self.tau >= 0):
            raise UserError(f"The gate of {self.name} is {self.tau}; it must be zero or more.")


@dataclass(frozen=True)
class Request:
    """lanes: one for each entry: the aligners composed in it, none for the base. with_base: the base's lane comes
    first, besides. history: what was said before the prompt, (role, text) a turn. tau: "auto" (each card's own), "off",
    or a threshold in nats. forced: tokens with which every answer is made to begin; they count as its own."""

    prompt: str
    lanes: tuple[tuple[Choice, ...], ...] = ()
    tau: str | float = "auto"
    settings: DecodingSettings = field(default_factory=DecodingSettings)
    with_base: bool = True
    history: tuple[tuple[str, str], ...] = ()
    forced: tuple[int, ...] = ()

    @property
    def all_lanes(self) -> tuple[tuple[Choice, ...], ...]:
        return ((), *self.lanes) if self.with_base else self.lanes

    def __post_init__(self):
        if not self.prompt.strip():
            raise UserError("The prompt is empty.")
        if len(self.prompt) > MAX_PROMPT_CHARACTERS:
            raise UserError(
                f"The prompt has {len(self.prompt):,} characters, over the {MAX_PROMPT_CHARACTERS:,} allowed."
            )
        for choices in self.lanes:
            names = [choice.name for choice in choices]
            if len(set(names)) < len(names):
                raise UserError(f"The aligner {max(names, key=names.count)} is chosen twice in one lane.")
        lanes = [lane_name(choices) for choices in self.all_lanes]
        if len(set(lanes)) < len(lanes):
            raise UserError(f"The lane {max(lanes, key=lanes.count)} is asked for twice.")
        check(self.settings)
        if len(self.forced) >= self.settings.max_new_tokens:
            raise UserError(
                f"The answer is made to begin with {len(self.forced):,} tokens, and may have "
                f"{self.settings.max_new_tokens:,}: ask for a longer one."
            )


def lane_name(choices: tuple[Choice, ...]) -> str:
    return "+".join(choice.name for choice in choices) or BASE


def check(settings: DecodingSettings) -> None:
    """Raise UserError for a mode that does not exist or a number out of its range."""
    if settings.mode not in (*MODES, OWN_MODE):
        raise UserError(f"There is no mode {settings.mode!r}; there are: {', '.join((*MODES, OWN_MODE))}.")
    for name, (low, high, words) in RANGES.items():
        value = getattr(settings, name)
        if not low <= value <= high:  # not a number is not within either
            raise UserError(f"{words[0].upper()}{words[1:]} is {value}; it must be from {low:g} to {high:g}.")
        if name in WHOLE and value != int(value):
            raise UserError(f"{words[0].upper()}{words[1:]} is {value}; it must be a whole number.")


def parse_choice(text: str) -> Choice:
    """`NAME` or `NAME:BETA`. Raises UserError for a strength that is not a number from 0 to 10."""
    name, colon, strength = text.partition(":")
    if not name.strip():
        raise UserError(f"{text!r} names no aligner; write NAME or NAME:STRENGTH.")
    try:
        return Choice(name.strip(), float(strength) if colon else None)
    except ValueError:
        raise UserError(f"The strength of {name} is {strength!r}, which is not a number.") from None


def parse_tau(text: str) -> str | float:
    """`auto`, `off` or a threshold in nats. Raises UserError for anything else."""
    word = text.strip().lower()
    if word in ("auto", "off"):
        return word
    try:
        tau = float(word)
    except ValueError:
        raise UserError(f"The gate is {text!r}; it must be auto, off or a number.") from None
    if not math.isfinite(tau) or tau < 0:
        raise UserError(f"The gate is {text}; it must be zero or more.")
    return tau

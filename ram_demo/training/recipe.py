"""A recipe: everything that decides what a training run makes, read from YAML into one frozen dataclass.

Its hash goes into the card of the aligner it made. Knows nothing of how it is carried out.
"""

import hashlib
import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from ram_demo.errors import UserError
from ram_demo.models.aligners import check_name
from ram_demo.settings import DEFAULT_MODEL

LOSSES = ("ram_sft", "ram_dpo", "sft", "dpo")
PREFERENCES = ("ram_dpo", "dpo")  # losses that need rejected answers in the data
METHODS = ("lora", "full")
FOR_THE_CARD = (
    "name",
    "description",
    "license",
    "data_license",
    "data_source",
    "beta",
    "tau",
    "mode",
    "checkpoint_every",
)
LISTS = ("lora_targets", "anchors")  # of texts
POSITIVE = (
    "lora_rank",
    "lora_alpha",
    "anchor",
    "epochs",
    "batch_size",
    "accumulate",
    "dpo_beta",
    "learning_rate",
    "clip",
    "max_tokens",
    "synthesis_tokens",
    "warm_up_rate",
)
NOT_NEGATIVE = (
    "alpha",
    "warmup",
    "weight_decay",
    "seed",
    "beta",
    "tau",
    "held_out",
    "checkpoint_every",
    "warm_up_epochs",
)


@dataclass(frozen=True)
class Recipe:
    """name, description, licence: for the card. data: JSONL in any form of `rows.py`, beside the recipe or absolute.
    data_source: where it can be had, if it is not shipped. anchors: files with a `prompt` a line, beside the recipe or
    absolute: where nothing is to change. The proposal answers them itself, and along these answers the mean of
    KL(P_M || Q) is the loss, times anchor.

    lora_rank, lora_alpha, lora_targets: the adapter. epochs, batch_size, learning_rate, warmup, weight_decay, clip:
    AdamW with a linear warm-up (share of the steps) and a cosine to zero, clipped by norm; accumulate: batches a step.
    method: "lora", or "full" for a whole model. alpha: weight of y- in `ram_sft`; dpo_beta: sharpness of `ram_dpo` and
    `dpo`. held_out: share of the prompts that are not trained on. checkpoint_every: steps (0: a tenth of the run).
    leave_out_bad_rows: train on the others where rows cannot be used. max_tokens: prompt and response together, longer
    examples are refused. y- is cut at synthesis_tokens, and sampled from the proposal here, or read from the server of
    OpenAI's protocol at the URL answers_from, which calls the proposal answers_model. warm_up_epochs, warm_up_rate:
    before all else a new proposal, made from the base by plain `sft` of every weight. beta, tau, mode: what the card
    recommends; None: as the calibration finds.
    """

    name: str
    description: str
    data: str
    data_license: str
    data_source: str = ""
    anchors: tuple[str, ...] = ()
    license: str = "Apache-2.0"
    base: str = DEFAULT_MODEL
    loss: str = "ram_sft"
    method: str = "lora"
    alpha: float = 1e-4
    dpo_beta: float = 0.1
    anchor: float = 1.0
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    epochs: int = 3
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    held_out: float = 0.1
    checkpoint_every: int = 0
    leave_out_bad_rows: bool = False
    max_tokens: int = 512
    synthesis_tokens: int = 64
    answers_from: str = ""
    answers_model: str = ""
    warm_up_epochs: int = 0
    warm_up_rate: float = 2e-5
    seed: int = 0
    beta: float | None = None
    tau: float | None = None
    mode: str = "product"

    @property
    def hash(self) -> str:
        """12 hex digits over every value that shapes the weights: equal hash and data make the same aligner.

        Values as usual do not count, so that a recipe keeps its hash when recipes learn to say more. A usual value that
        changes has to be written into the recipes that were made with it.
        """
        shaping = {name: value for name, value in self._said().items() if name not in FOR_THE_CARD}
        if self.anchors:
            shaping["anchors"] = [Path(file).name for file in self.anchors]  # wherever they lie
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The recipe as a file that `read` takes: what names it, and every value that is not the usual one."""
        return yaml.safe_dump(self._said(), sort_keys=False, allow_unicode=True)

    def _said(self) -> dict:
        return {
            f.name: list(value) if isinstance(value, tuple) else value
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_json(cls, raw: dict) -> "Recipe":
        """What `asdict` gave and JSON kept, in this version or an older one. Raises UserError if that said what recipes
        cannot say any more."""
        known = {f.name for f in fields(cls)}
        lost = [name for name, value in raw.items() if name not in known and value]
        if lost:
            raise UserError(f"This run was begun by a version whose recipes had {lost[0]!r}; start it anew.")
        return cls(**{name: tuple(raw[name]) if name in LISTS else raw[name] for name in raw if name in known})


def read(file: Path) -> Recipe:
    """Raises UserError for a missing file, an unknown or missing key, or a value of the wrong type."""
    try:
        raw = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no recipe at {file}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file} does not hold a recipe: it must be a mapping of names to values.")
    known = {f.name: f for f in fields(Recipe)}
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise UserError(f"{file} names {unknown[0]!r}, which recipes do not have; they have {', '.join(known)}.")
    values = {name: _typed(name, value, known[name].type, file) for name, value in raw.items()}
    try:
        recipe = Recipe(**values)
    except TypeError as error:
        raise UserError(f"{file} is incomplete: {str(error).split(') ', 1)[-1]}.") from error
    recipe = replace(recipe, anchors=tuple(str((file.parent / each).resolve()) for each in recipe.anchors))
    return checked(recipe, str(file))


def checked(recipe: Recipe, where: str) -> Recipe:
    """The recipe, if it can be carried out. Raises UserError that begins with where it was written."""
    if recipe.loss not in LOSSES:
        raise UserError(f"{where}: the loss {recipe.loss!r} is unknown; there are {', '.join(LOSSES)}.")
    if recipe.method not in METHODS:
        raise UserError(f"{where}: the method {recipe.method!r} is unknown; there are {', '.join(METHODS)}.")
    if recipe.held_out >= 1:
        raise UserError(f"{where}: held_out must be below one.")
    check_name(recipe.name)
    for name in (*POSITIVE, *NOT_NEGATIVE):
        value = getattr(recipe, name)
        if value is not None and not (math.isfinite(value) and value >= 0 and (value or name in NOT_NEGATIVE)):
            raise UserError(f"{where}: {name} must be {'zero or more' if name in NOT_NEGATIVE else 'above zero'}.")
    if recipe.seed >= 2**63:
        raise UserError(f"{where}: seed must be below 2**63.")
    if bool(recipe.answers_from) != bool(recipe.answers_model):
        raise UserError(f"{where}: answers_from and answers_model go together: a server, and its name of the proposal.")
    if recipe.answers_from and not recipe.answers_from.startswith(("http://", "https://")):
        raise UserError(f"{where}: answers_from must be a URL that begins with http:// or https://.")
    if recipe.anchors and recipe.method != "lora":
        raise UserError(f"{where}: anchors need the method lora: a whole model no longer knows what it was.")
    if not recipe.lora_targets:
        raise UserError(f"{where}: lora_targets names nothing to adapt.")
    return recipe


def _typed(name: str, value, wanted, file: Path):
    """YAML's own types, with whole numbers accepted as floats and lists as tuples. 2e-4, without a dot, is text to YAML
    1.1 and a number to people."""
    if name in LISTS and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if wanted in (float, float | None) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise UserError(f"{file}: {name} is {value!r}, which is no number.") from None
    if name not in LISTS and isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{file}: {name} is {value!r}, which is not of the kind it must be.")

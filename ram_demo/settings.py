"""Settings: the environment turned into one frozen dataclass. Knows where things live, and nothing of what they are.

Every variable starts with `RAM_DEMO_`; the README lists them, and a test compares that list with `VARIABLES`.
Data (votes, imported aligners) and cache (converted models) live in the user's own folders, never in the working
directory, because a web server may serve files from there.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from ram_demo.errors import UserError

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8", "int4")
SHIPPED_ALIGNERS = Path(__file__).resolve().parent.parent / "assets" / "aligners"
HELD_OUT_PROMPTS = SHIPPED_ALIGNERS.parent / "data" / "heldout.jsonl"  # none of them is trained on

DATABASES = ("postgresql+psycopg://", "sqlite:///")
LOCAL = ("127.0.0.1", "localhost", "::1")  # hosts that only this machine reaches
VARIABLES = {
    "RAM_DEMO_DATA": "folder for the database and imported aligners",
    "RAM_DEMO_CACHE": "folder for converted models",
    "RAM_DEMO_DATABASE_URL": "where votes are kept, if not in a SQLite file in the data folder",
    "RAM_DEMO_MODEL": "the proposal: a bundled or hub name, or a folder",
    "RAM_DEMO_DTYPE": "weights: auto, float32, bfloat16, float16, int8 or int4",
    "RAM_DEMO_DEVICE": "auto, cpu, cuda, cuda:1, ...",
    "RAM_DEMO_MEMORY": "gigabytes for the caches of all who are answered at once",
    "RAM_DEMO_HOST": "address to listen on",
    "RAM_DEMO_PORT": "port to listen on",
    "RAM_DEMO_UPLOADS": "on or off: may visitors import aligners",
    "RAM_DEMO_OWNER_TOKEN": "lifts the Train tab's limits on a page that others reach",
}


@dataclass(frozen=True)
class Settings:
    """What the environment decides. `on_spaces` is true on Hugging Face Spaces, where `data` is a mounted volume or is
    lost at restart; `network_volume` is true when that volume holds the database. memory: GB for caches, None: a share
    of what is free."""

    data: Path
    cache: Path
    model: str
    dtype: str
    device: str
    memory: float | None
    host: str
    port: int
    on_spaces: bool
    network_volume: bool
    uploads: bool
    owner_token: str = field(repr=False)
    database: str = field(repr=False)  # an address, which may hold a password; empty for the file in `data`

    @property
    def is_public(self) -> bool:
        """Can others than this machine reach the page?"""
        return self.host not in LOCAL

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'votes.sqlite3'}"

    @property
    def own_aligners(self) -> Path:
        """Where a user's own aligners live: dropped there by hand, or imported."""
        return self.data / "aligners"

    @property
    def own_models(self) -> Path:
        """Where proposals live that were warmed up here."""
        return self.data / "models"

    @property
    def runs(self) -> Path:
        """Where training runs live, a folder each."""
        return self.data / "runs"


def from_environment(environ=os.environ) -> Settings:
    """Read the settings. Raises UserError for a value that cannot be meant."""
    on_spaces = environ.get("SYSTEM") == "spaces" or "SPACE_ID" in environ
    volume = on_spaces and os.access("/data", os.W_OK)
    data = environ.get("RAM_DEMO_DATA") or ("/data" if volume else platformdirs.user_data_dir("ram-demo"))
    cache = environ.get("RAM_DEMO_CACHE") or platformdirs.user_cache_dir("ram-demo")
    dtype = environ.get("RAM_DEMO_DTYPE") or "auto"
    if dtype not in DTYPES:
        raise UserError(f"RAM_DEMO_DTYPE is {dtype!r}; it can be {', '.join(DTYPES)}.")
    memory = environ.get("RAM_DEMO_MEMORY") or "auto"
    if memory != "auto" and not re.fullmatch(r"\d*\.?\d+", memory):
        raise UserError(f"RAM_DEMO_MEMORY is {memory!r}; it must be auto or a number of gigabytes.")
    # Gradio's own names are honoured because hosts and containers set them.
    port = environ.get("RAM_DEMO_PORT") or environ.get("GRADIO_SERVER_PORT") or "7860"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"RAM_DEMO_PORT is {port!r}; it must be a number from 1 to 65535.")
    host = environ.get("RAM_DEMO_HOST") or environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    # A page that others can reach takes no files from them unless its host says so.
    uploads = environ.get("RAM_DEMO_UPLOADS") or ("on" if host in LOCAL else "off")
    if uploads not in ("on", "off"):
        raise UserError(f"RAM_DEMO_UPLOADS is {uploads!r}; it can be on or off.")
    database = environ.get("RAM_DEMO_DATABASE_URL") or ""
    if database and not database.startswith(DATABASES):  # the value stays unsaid: it may hold a password
        raise UserError(f"RAM_DEMO_DATABASE_URL is no address that begins with {' or '.join(DATABASES)}.")
    return Settings(
        data=Path(data).expanduser().absolute(),
        cache=Path(cache).expanduser().absolute(),
        model=environ.get("RAM_DEMO_MODEL") or DEFAULT_MODEL,
        dtype=dtype,
        device=environ.get("RAM_DEMO_DEVICE") or "auto",
        memory=None if memory == "auto" else float(memory),
        host=host,
        port=int(port),
        on_spaces=on_spaces,
        network_volume=volume,
        uploads=uploads == "on",
        owner_token=environ.get("RAM_DEMO_OWNER_TOKEN") or "",
        database=database,
    )

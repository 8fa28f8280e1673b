"""The page's own files under `assets/web`, read once. Knows no gradio."""

from functools import cache
from pathlib import Path

WEB = Path(__file__).resolve().parents[2] / "assets" / "web"


@cache
def web(name: str) -> str:
    return (WEB / name).read_text("utf-8")

"""What the README says of commands, options and settings is what the code has: nothing missing, nothing invented."""

import re
from pathlib import Path

import typer
import yaml

from ram_demo.__main__ import app
from ram_demo.settings import VARIABLES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def options_in_code() -> dict[str, set[str]]:
    """{command as typed: its long options}."""
    found = {}

    def walk(command, path: str) -> None:
        subcommands = getattr(command, "commands", None)
        if subcommands:
            for name, sub in subcommands.items():
                walk(sub, f"{path} {name}".strip())
        else:
            named = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts) if opt.startswith("--")}
            found[path] = named - {"--help"}

    walk(typer.main.get_command(app), "")
    return found


def options_in_readme() -> dict[str, set[str]]:
    block = next(b for b in re.findall(r"```\n(.*?)```", README, re.S) if "python -m ram_demo generate" in b)
    found = {}
    for entry in re.split(r"^python -m ram_demo ", block, flags=re.M)[1:]:
        words = re.match(r"[a-z]+(?: (?:export|import|leaderboard))?", entry)[0]
        found[words] = set(re.findall(r"--[a-z-]+", entry))
    return found


def test_every_command_and_option_is_in_the_readme_and_no_other():
    assert options_in_readme() == options_in_code()


def test_every_setting_is_in_the_readme_and_no_other():
    assert set(re.findall(r"^\| `(RAM_DEMO_[A-Z_]+)`", README, re.M)) == set(VARIABLES)


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.M)) <= targets


def test_the_front_matter_is_what_a_space_needs():
    front = yaml.safe_load(README.split("---")[1])
    pins = dict(re.findall(r"^([a-z_]+)==([0-9.]+)$", (ROOT / "requirements.txt").read_text(), re.M))
    assert front["sdk"] == "gradio" and front["sdk_version"] == pins["gradio"]
    assert (ROOT / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60


def test_pictures_and_files_that_are_linked_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists()

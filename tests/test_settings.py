"""The environment as settings: where things live, and what cannot be meant."""

from pathlib import Path

import pytest

from ram_demo.errors import UserError
from ram_demo.settings import DEFAULT_MODEL, SHIPPED_ALIGNERS, VARIABLES, from_environment


def test_without_any_variable_the_users_own_folders_are_taken():
    settings = from_environment({})
    assert settings.memory is None
    assert (settings.model, settings.dtype, settings.device) == (DEFAULT_MODEL, "auto", "auto")
    assert (settings.host, settings.port, settings.uploads) == ("127.0.0.1", 7860, True)
    assert not settings.on_spaces and not settings.network_volume
    for folder in (settings.data, settings.cache):
        assert folder.is_absolute() and not folder.is_relative_to(Path.cwd())
    assert settings.data != settings.cache


def test_every_variable_that_is_documented_is_read(tmp_path):
    values = {
        "RAM_DEMO_DATA": str(tmp_path / "d"), "RAM_DEMO_CACHE": str(tmp_path / "c"), "RAM_DEMO_MODEL": "some/model",
        "RAM_DEMO_DTYPE": "bfloat16", "RAM_DEMO_DEVICE": "cuda:1", "RAM_DEMO_HOST": "0.0.0.0", "RAM_DEMO_PORT": "80",
        "RAM_DEMO_UPLOADS": "on", "RAM_DEMO_MEMORY": "1.5", "RAM_DEMO_OWNER_TOKEN": "x",
        "RAM_DEMO_DATABASE_URL": "postgresql+psycopg://me:secret@db/votes",
    }  # fmt: skip
    assert set(values) == set(VARIABLES)
    settings = from_environment(values)
    assert (settings.data, settings.cache) == (tmp_path / "d", tmp_path / "c")
    assert settings.memory == 1.5
    assert (settings.model, settings.dtype, settings.device) == ("some/model", "bfloat16", "cuda:1")
    assert (settings.host, settings.port, settings.uploads) == ("0.0.0.0", 80, True)
    assert (settings.owner_token, settings.is_public) == ("x", True)
    assert settings.own_aligners == tmp_path / "d" / "aligners"
    assert settings.database_url == "postgresql+psycopg://me:secret@db/votes"
    del values["RAM_DEMO_DATABASE_URL"]
    assert from_environment(values).database_url == f"sqlite:///{tmp_path / 'd' / 'votes.sqlite3'}"


@pytest.mark.parametrize("name", VARIABLES)
def test_an_empty_variable_is_one_that_is_not_set(name):
    # Compose files and hosts' forms pass on what was left empty.
    assert from_environment({name: ""}) == from_environment({})


def test_a_home_is_expanded_and_a_relative_folder_made_whole():
    settings = from_environment({"RAM_DEMO_DATA": "~/ram", "RAM_DEMO_CACHE": "here"})
    assert settings.data == Path.home() / "ram"
    assert settings.cache == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RAM_DEMO_PORT", port) for port in ("0", "65536", "-1", "http", "78.60", "9" * 30)),
        ("RAM_DEMO_DTYPE", "int3"),
        *(("RAM_DEMO_MEMORY", memory) for memory in ("much", "-1", "nan", "1e9", "1.")),
        ("RAM_DEMO_UPLOADS", "yes"),
        *(("RAM_DEMO_DATABASE_URL", url) for url in ("votes.sqlite3", "postgres://me:secret@db/votes")),
    ],
)
def test_what_cannot_be_meant_is_named(name, value):
    with pytest.raises(UserError, match=rf"{name} is .*\.$") as refused:
        from_environment({name: value})
    assert "secret" not in str(refused.value)


def test_the_names_that_hosts_use_are_honoured_after_ones_own():
    hosts = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "9000"}
    assert (from_environment(hosts).host, from_environment(hosts).port) == ("0.0.0.0", 9000)
    both = from_environment({**hosts, "RAM_DEMO_HOST": "::1", "RAM_DEMO_PORT": "9001"})
    assert (both.host, both.port) == ("::1", 9001)


@pytest.mark.parametrize(("host", "uploads"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_a_page_that_others_reach_takes_no_files_unless_it_is_said(host, uploads):
    assert from_environment({"RAM_DEMO_HOST": host}).uploads is uploads
    assert from_environment({"RAM_DEMO_HOST": host, "RAM_DEMO_UPLOADS": "off"}).uploads is False
    assert from_environment({"RAM_DEMO_HOST": host, "RAM_DEMO_UPLOADS": "on"}).uploads is True


@pytest.mark.parametrize("environ", [{"SYSTEM": "spaces"}, {"SPACE_ID": "me/ram-demo"}])
def test_spaces_is_recognised_and_its_volume_used_where_there_is_one(environ, monkeypatch):
    for mounted in (True, False):
        monkeypatch.setattr("os.access", lambda path, mode, mounted=mounted: mounted and path == "/data")
        settings = from_environment(environ)
        assert settings.on_spaces and settings.network_volume is mounted
        assert (settings.data == Path("/data")) is mounted


def test_the_shipped_aligners_are_there():
    assert {path.name for path in SHIPPED_ALIGNERS.iterdir() if path.is_dir()} >= {"concise", "pirate"}

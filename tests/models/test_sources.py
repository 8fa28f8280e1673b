"""From a name to files: which place answers, what identifies the content, and what is refused."""

import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from ram_demo.errors import StorageError, UserError
from ram_demo.models import sources
from ram_demo.models.sources import available, content_hash, convert, resolve
from ram_demo.settings import DEFAULT_MODEL


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    """What this machine has downloaded before is of no matter."""
    hub = tmp_path / "hub"
    hub.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    return hub


@pytest.fixture
def converted(cache, tiny_base) -> Path:
    """A model where the conversion would have put it."""
    folder = sources._converted_folder(cache)
    folder.parent.mkdir(parents=True)
    shutil.copytree(tiny_base, folder)
    return folder


def test_a_folder_is_a_model_by_its_path(tiny_base, cache):
    found = resolve(str(tiny_base), cache)
    assert (found.name, found.path, found.origin) == (tiny_base.name, tiny_base.resolve(), "path")
    assert found.revision == content_hash(tiny_base)


def test_a_path_comes_before_every_other_place(copy, converted, cache, tmp_path, monkeypatch, tiny_base):
    shutil.copytree(tiny_base, tmp_path / DEFAULT_MODEL)
    monkeypatch.chdir(tmp_path)
    assert resolve(DEFAULT_MODEL, cache).origin == "path"
    assert resolve(DEFAULT_MODEL, cache).path == (tmp_path / DEFAULT_MODEL).resolve()


def test_the_cache_comes_before_the_bundle(converted, cache, monkeypatch):
    monkeypatch.setattr(sources, "_from_bundle", lambda *_: pytest.fail("the bundle was asked first"))
    found = resolve(DEFAULT_MODEL, cache)
    assert (found.origin, found.path) == ("cache", converted)


def test_the_hubs_name_of_the_embedded_model_is_the_same_model(converted, cache):
    assert resolve(f"HuggingFaceTB/{DEFAULT_MODEL}", cache) == resolve(DEFAULT_MODEL, cache)


def test_the_bundle_is_converted_once(cache, monkeypatch, tiny_base, tmp_path):
    calls = []

    def pretend(gguf, target, progress):
        calls.append(gguf)
        shutil.copytree(tiny_base, target)

    monkeypatch.setattr(sources, "_bundled_file", lambda: tmp_path / "bundled.gguf")
    monkeypatch.setattr(sources, "convert", pretend)
    first, second = resolve(DEFAULT_MODEL, cache), resolve(DEFAULT_MODEL, cache)
    assert (first.origin, second.origin) == ("bundled", "cache")
    assert (first.path, first.revision) == (second.path, second.revision)
    assert len(calls) == 1


def test_the_hubs_own_cache_is_looked_into(cache, empty_hub_cache, tiny_base):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = empty_hub_cache / "models--someone--tiny"
    shutil.copytree(tiny_base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    found = resolve("someone/tiny", cache)
    assert (found.origin, found.revision) == ("cache", commit[:12])
    assert found.path == repo / "snapshots" / commit


@pytest.mark.parametrize(
    "name",
    ["no-such-model", "someone/no-such-model", "a/b/c", "../nowhere", "/nowhere/at/all", "~/nowhere", "~no-such-user/x",
     "x" * 300, "someone/" + "x" * 300, "nul\0byte", "-", "…", "", "  "],
)  # fmt: skip
def test_an_unknown_name_gets_one_sentence(cache, name):
    with pytest.raises(UserError) as caught:
        resolve(name, cache)
    assert "\n" not in str(caught.value)


def test_the_sentence_about_an_unknown_name_says_where_it_was_looked_for(cache):
    with pytest.raises(UserError) as caught:
        resolve("no-such-model", cache)
    for word in ("no-such-model", "folder", "cache", "bundled", "hub", "python -m ram_demo models"):
        assert word in str(caught.value)


def test_a_folder_that_is_no_model_says_so(cache, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        resolve(str(tmp_path), cache)


# Content ------------------------------------------------------------------------------------------------------------


def test_the_revision_is_of_the_content_and_not_of_the_place(copy, tiny_base):
    elsewhere = copy(tiny_base)
    os.utime(elsewhere / "model.safetensors", (0, 0))
    (elsewhere / "README.md").write_text("new words")
    assert content_hash(elsewhere) == content_hash(tiny_base)
    assert len(content_hash(tiny_base)) == 12


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_any_change_of_content_changes_the_revision(copy, tiny_base, name):
    """The template too: it lays out the prompt, so replay needs it equal."""
    folder = copy(tiny_base)
    whole = bytearray((folder / name).read_bytes())
    whole[-2] ^= 1
    (folder / name).write_bytes(whole)
    assert content_hash(folder) != content_hash(tiny_base)


def test_an_adapters_configuration_and_weights_count(copy, tiny_adapter):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        folder = copy(tiny_adapter)
        with (folder / name).open("ab") as file:
            file.write(b" ")
        assert content_hash(folder) != content_hash(tiny_adapter)
        shutil.rmtree(folder)


def test_a_renamed_file_is_other_content(copy, tiny_base):
    folder = copy(tiny_base)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    assert content_hash(folder) != content_hash(tiny_base)


# The bundle ---------------------------------------------------------------------------------------------------------


def test_a_damaged_gguf_is_refused(tmp_path):
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF and then something else")
    target = tmp_path / "models" / "converted"
    target.parent.mkdir()
    told = []
    with pytest.raises(UserError, match="SHA-256") as caught:
        convert(gguf, target, lambda what, share: told.append((what, share)))
    assert gguf.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []
    assert told, "a check of 98 MB shows progress"


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    """A file that passes the check and cannot be read: no half a model may be found at the next start."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF and then something else")
    monkeypatch.setattr(sources, "BUNDLED_SHA256", sources.file_sha256(gguf))
    target = tmp_path / "models" / "converted"
    target.parent.mkdir()
    with pytest.raises(Exception):  # noqa: B017 (whatever the reader of the format raises)
        convert(gguf, target, sources.silent)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("obstacle", ["file", "read-only"])
def test_a_cache_that_cannot_be_written_says_so(cache, monkeypatch, tmp_path, obstacle):
    if obstacle == "file":
        cache.write_text("in the way")
    else:

        def refuse(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(sources, "_bundled_file", lambda: tmp_path / "bundled.gguf")
    with pytest.raises(StorageError) as caught:
        resolve(DEFAULT_MODEL, cache)
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


# The list -----------------------------------------------------------------------------------------------------------


def test_what_is_available_without_a_hub(cache, monkeypatch, tmp_path, converted):
    (row,) = available(cache, cache / "none")
    assert row == {
        "name": DEFAULT_MODEL,
        "origin": "cache",
        "path": str(converted),
        "revision": sources.BUNDLED_SHA256[:12],
    }


def test_before_the_conversion_the_bundle_has_no_path(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_bundled_file", lambda: tmp_path / "bundled.gguf")
    (row,) = available(cache, cache / "none")
    assert (row["origin"], row["path"]) == ("bundled", None)


def test_with_nothing_at_hand_the_list_is_empty(cache, monkeypatch):
    monkeypatch.setattr(sources, "_bundled_file", lambda: None)
    assert available(cache, cache / "none") == []

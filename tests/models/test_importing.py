"""Taking in a user's aligner: what arrives, under which name, and that a refusal leaves nothing of it behind."""

import json
import re
import stat
import zipfile
from pathlib import Path

import pytest

from ram_demo.errors import StorageError, UserError
from ram_demo.models import importing
from ram_demo.models.importing import import_package

CONFIG = json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": "some/base"}).encode()
GOOD = {"adapter_config.json": CONFIG, "adapter_model.safetensors": bytes(range(256)) * 40, "README.md": b"# mine"}


@pytest.fixture
def own(tmp_path):
    """The user's folder, with an aligner in it that every refusal must leave as it is."""
    folder = tmp_path / "data" / "aligners"
    (folder / "there").mkdir(parents=True)
    (folder / "there" / "adapter_config.json").write_bytes(CONFIG)
    return folder


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def tree(root: Path) -> dict[str, bytes | None]:
    """Every path below `root`, hidden ones too, with the content of files."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


def zipped(file: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file


def unpacked(folder: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def accept(package) -> None:
    """A check that finds nothing wrong, and sees the files where it is told that they are."""
    assert (package.folder / "adapter_config.json").is_file()
    assert not package.shipped


def refusal(source: Path, own: Path, check=accept, taken=frozenset({"there"})) -> str:
    """The sentence with which `source` is refused. Nothing may have changed, in the user's folder or beside it."""
    before = tree(own.parent.parent)
    with pytest.raises(UserError) as caught:
        import_package(source, own, set(taken), check)
    assert tree(own.parent.parent) == before
    sentence = str(caught.value)
    assert sentence.endswith((".", ")")) and "\n" not in sentence
    return sentence


# What is taken in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["folder", "flat zip", "nested zip", "deeply nested zip"])
def test_every_shape_of_package_arrives_whole(own, outside, shape):
    if shape == "folder":
        source = unpacked(outside / "mine", GOOD)
    else:
        inside = {"flat zip": "", "nested zip": "mine/", "deeply nested zip": "out/run/mine/"}[shape]
        source = zipped(outside / "mine.zip", {inside + name: content for name, content in GOOD.items()})
    before = tree(outside)
    assert import_package(source, own, {"there"}, accept) == "mine"
    assert tree(own / "mine") == GOOD
    assert {path.name for path in own.iterdir()} == {"there", "mine"}
    assert tree(outside) == before, "the source is copied, not moved"


def test_the_users_folder_is_made_where_there_is_none(tmp_path, outside):
    assert import_package(unpacked(outside / "mine", GOOD), tmp_path / "a" / "b", set(), accept) == "mine"
    assert tree(tmp_path / "a" / "b" / "mine") == GOOD


def test_only_known_kinds_of_file_are_taken(own, outside):
    more = {"modeling_x.py": b"import os", "run.sh": b"rm -rf /", "optimizer.pt": b"\x80\x04", "aligner.json": b"{}"}
    import_package(zipped(outside / "mine.zip", {**GOOD, **more}), own, set(), accept)
    import_package(unpacked(outside / "yours", {**GOOD, **more}), own, set(), accept)
    for name in ("mine", "yours"):
        assert set(tree(own / name)) == {*GOOD, "aligner.json"}


def test_what_a_mac_adds_to_a_zip_does_no_harm(own, outside):
    litter = {"__MACOSX/mine/._adapter_config.json": b"\x00\x05\x16\x07", "mine/.DS_Store": b"\x00"}
    source = zipped(outside / "sent.zip", {**{f"mine/{name}": content for name, content in GOOD.items()}, **litter})
    assert import_package(source, own, set(), accept) == "mine"
    assert set(GOOD) <= set(tree(own / "mine"))


def test_the_check_sees_the_name_and_the_card(own, outside):
    seen = []
    card = json.dumps({"description": "Says little.", "beta": 0.5}).encode()
    import_package(unpacked(outside / "mine", {**GOOD, "aligner.json": card}), own, set(), seen.append)
    assert [(p.name, p.card.base, p.card.description, p.card.beta) for p in seen] == [
        ("mine", "some/base", "Says little.", 0.5)
    ]


@pytest.mark.parametrize("where", ["the zip", "the folder in it"])
@pytest.mark.parametrize(
    "name",
    ["my aligner", "...", ".hidden", "a+b", "a,b", "name\nwith\x1b[31m", "<b>x", "日本", "-rf", "é" * 80, "x" * 120,
     "a;b", "a:2", "CON.", "v1.2", "base"],
)  # fmt: skip
def test_whatever_the_source_is_called_the_name_is_harmless(own, outside, name, where):
    inside, stem = ("", name) if where == "the zip" else (f"{name}/", "sent")
    source = zipped(outside / f"{stem}.zip", {inside + file: content for file, content in GOOD.items()})
    try:
        made = import_package(source, own, {"there"}, accept)
    except UserError:
        assert name in ("base", "a:2"), "only a name that has a meaning may be refused"
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}", made)
    assert made != "base", "the base lane has that name"
    assert {path.name for path in own.iterdir()} == {"there", made}
    assert tree(own / made) == GOOD


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    ["../evil.json", "mine/../../evil.json", "/etc/evil.json", "..\\evil.json", "mine\\..\\..\\evil.json",
     "C:\\evil.json", "c:/evil.json", "\\\\host\\share\\evil.json", "C:evil.json",
     "mine/../../../there/adapter_config.json"],
)  # fmt: skip
def test_a_zip_that_climbs_out_is_refused(own, outside, entry):
    with zipfile.ZipFile(outside / "evil.zip", "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo("placeholder")
        info.filename = entry  # as it is: the constructor would tidy it
        archive.writestr(info, b"evil")
    assert "outside its folder" in refusal(outside / "evil.zip", own)


def test_a_zip_with_a_link_is_refused(own, outside, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    with zipfile.ZipFile(outside / "link.zip", "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        info = zipfile.ZipInfo("tokenizer.json")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, str(tmp_path / "secret.json"))
    assert "link" in refusal(outside / "link.zip", own)


@pytest.mark.parametrize("entry", [".", "./", "/", "a//b.json", "./adapter_model.json"])
def test_an_odd_but_harmless_entry_is_no_crash(own, outside, entry):
    with zipfile.ZipFile(outside / "odd.zip", "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(f"mine/{name}", content)
        info = zipfile.ZipInfo("placeholder")
        info.filename = entry
        archive.writestr(info, b"")
    try:
        assert import_package(outside / "odd.zip", own, set(), accept) == "mine"
    except UserError as error:
        assert "odd.zip" in str(error)
    assert {path.name for path in own.iterdir()} <= {"there", "mine"}


def test_a_zip_that_would_swell_is_refused_before_it_is_unpacked(own, outside, monkeypatch):
    bomb = zipped(outside / "bomb.zip", {**GOOD, "tokenizer.json": bytes(2_000_000)})
    assert bomb.stat().st_size < 30_000
    monkeypatch.setattr(importing, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *_: pytest.fail("something was unpacked"))
    assert "too large" in refusal(bomb, own)


def test_a_zip_of_too_many_files_is_refused(own, outside, monkeypatch):
    monkeypatch.setattr(importing, "MAX_FILES", 3)
    assert import_package(zipped(outside / "three.zip", GOOD), own, set(), accept) == "three"
    assert "3 files" in refusal(zipped(outside / "four.zip", {**GOOD, "a.txt": b""}), own)


def test_a_zip_that_lies_about_its_sizes_is_refused(own, outside, monkeypatch):
    monkeypatch.setattr(importing, "MAX_BYTES", 1_000_000)
    big = zipped(outside / "liar.zip", {**GOOD, "tokenizer.json": bytes(2_000_000)})
    content = big.read_bytes()
    assert content.count((2_000_000).to_bytes(4, "little")) == 2, "in the file's own header and in the directory"
    big.write_bytes(content.replace((2_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    assert "liar.zip" in refusal(big, own)


def test_a_zip_that_is_cut_or_damaged_is_refused(own, outside):
    whole = zipped(outside / "whole.zip", GOOD).read_bytes()
    damaged = outside / "damaged.zip"
    for content in (
        whole[:-30],
        whole[: len(whole) // 2],
        whole[:10],
        b"",
        b"not a zip at all",
        GOOD["README.md"] * 99,
    ):
        damaged.write_bytes(content)
        assert "damaged.zip" in refusal(damaged, own)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_a_flipped_byte_is_refused_wherever_it_is(own, outside, compression):
    entries = {**GOOD, "adapter_model.safetensors": b"".join(i.to_bytes(2, "little") for i in range(0, 60000, 7))}
    whole = zipped(outside / "whole.zip", entries, compression).read_bytes()
    damaged = outside / "damaged.zip"
    start = whole.index(b"adapter_model.safetensors") + len("adapter_model.safetensors")
    for at in (start, start + 4, start + 40, start + 400):
        damaged.write_bytes(whole[:at] + bytes(b ^ 0xFF for b in whole[at : at + 16]) + whole[at + 16 :])
        assert "damaged.zip" in refusal(damaged, own)


def test_a_zip_with_names_in_no_encoding_is_refused(own, outside):
    source = zipped(outside / "names.zip", {**GOOD, "é.txt": b""})
    source.write_bytes(source.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert "names.zip" in refusal(source, own)


def test_an_encrypted_zip_is_refused(own, outside):
    source = zipped(outside / "locked.zip", GOOD, zipfile.ZIP_STORED)
    content = bytearray(source.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(signature, start + 4)
    source.write_bytes(content)
    assert "locked.zip" in refusal(source, own)


@pytest.mark.parametrize("pack", [zipped, unpacked], ids=["zip", "folder"])
def test_pickles_alone_are_refused_as_such(own, outside, pack):
    source = outside / "pickled.zip" if pack is zipped else outside / "pickled"
    for weights in ("adapter_model.bin", "pytorch_model.pt", "model.pkl", "model.ckpt"):
        pack(source, {"adapter_config.json": CONFIG, weights: b"\x80\x04"})
        assert "pickle" in refusal(source, own)


@pytest.mark.parametrize("pack", [zipped, unpacked], ids=["zip", "folder"])
def test_what_holds_no_aligner_is_refused(own, outside, pack):
    source = outside / "none.zip" if pack is zipped else outside / "none"
    pack(source, {"README.md": b"# nothing", "adapter_model.safetensors": b""})
    assert "no aligner" in refusal(source, own)


def test_an_empty_folder_and_an_empty_zip_are_refused(own, outside):
    (outside / "empty").mkdir()
    assert "no aligner" in refusal(outside / "empty", own)
    assert "no aligner" in refusal(zipped(outside / "empty.zip", {}), own)


def test_two_aligners_in_one_zip_are_refused(own, outside):
    both = {f"{folder}/{name}": content for folder in ("one", "two") for name, content in GOOD.items()}
    assert "several aligners" in refusal(zipped(outside / "both.zip", both), own)


@pytest.mark.parametrize("pack", [zipped, unpacked], ids=["zip", "folder"])
def test_a_taken_name_is_refused_and_the_old_one_stays(own, outside, pack):
    source = pack(outside / ("there.zip" if pack is zipped else "there"), GOOD)
    assert "there" in refusal(source, own)
    # Shipped names too are taken, though no folder of the user's has them.
    assert "concise" in refusal(zipped(outside / "concise.zip", GOOD), own, taken={"there", "concise"})


def test_a_name_that_a_file_has_is_refused(own, outside):
    (own / "mine").write_text("notes of my own")
    refusal(unpacked(outside / "mine", GOOD), own)
    assert (own / "mine").read_text() == "notes of my own"


@pytest.mark.parametrize(
    "bad",
    [
        {"adapter_config.json": b"not JSON"},
        {"adapter_config.json": b"[]"},
        {"adapter_config.json": b"[" * 100_000},
        {"adapter_config.json": b"\xff\xfe"},
        {"aligner.json": b'{"beta": "strong"}'},
        {"aligner.json": b'{"beta": NaN}'},
        {"aligner.json": b"{"},
    ],
    ids=lambda bad: str(bad)[:40],
)
def test_files_that_cannot_be_read_are_refused(own, outside, bad):
    refusal(unpacked(outside / "bad", {**GOOD, **bad}), own)


def test_what_the_check_refuses_never_arrives(own, outside):
    def refuse(package):
        raise UserError("It uses another tokenizer.")

    assert refusal(unpacked(outside / "foreign", GOOD), own, refuse) == "It uses another tokenizer."


def test_a_defect_in_the_check_leaves_nothing_either(own, outside):
    def fail(package):
        raise KeyError("a defect")

    before = tree(own)
    with pytest.raises(KeyError):
        import_package(zipped(outside / "mine.zip", GOOD), own, set(), fail)
    assert tree(own) == before
    assert import_package(outside / "mine.zip", own, set(), accept) == "mine", "and it can be tried again"


def test_nothing_at_a_path_is_said(own, outside):
    assert "absent" in refusal(outside / "absent.zip", own)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path, outside):
    (tmp_path / "file").write_text("in the way")
    for own in (tmp_path / "file", tmp_path / "file" / "aligners"):
        with pytest.raises(StorageError, match="cannot be written"):
            import_package(unpacked(outside / "mine", GOOD), own, set(), accept)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("pack", [zipped, unpacked], ids=["zip", "folder"])
def test_a_disk_that_fills_leaves_nothing(own, outside, monkeypatch, pack):
    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    source = pack(outside / ("mine.zip" if pack is zipped else "mine"), GOOD)
    monkeypatch.setattr(importing.shutil, "copyfile", full)
    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    assert "No space left on device" in refusal(source, own)

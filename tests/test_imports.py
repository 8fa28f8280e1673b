"""The rules of who imports whom, and what no file may do, read from the syntax tree of every file of the package."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ram_demo"
FILES = sorted(PACKAGE.rglob("*.py"))
# What each room may import of the package besides itself. `__main__` and app.py may import everything.
MAY_IMPORT = {
    "errors": set(),
    "settings": {"errors"},
    "models": {"settings", "errors"},
    "decoding": {"models", "errors"},
    "votes": {"errors"},
    "ranking": {"errors"},
    "training": {"evaluation", "models", "settings", "errors"},
    "request": {"decoding", "models", "errors"},
    "workbench": {"decoding", "models", "request", "settings", "errors"},
    "responses": {"decoding", "votes"},
    "runs": {"decoding", "request", "responses", "votes", "workbench", "errors"},
    "standings": {"ranking", "votes", "errors"},
    "pairing": {"errors"},
    "exchange": {"decoding", "workbench"},
    "replay": {"decoding", "request", "workbench", "errors"},
    "views": {"decoding", "evaluation", "request", "votes", "errors"},
    "inspection": {"decoding", "replay", "request", "runs", "views", "votes", "errors"},
    "arena": {
        "responses",
        "views",
        "decoding",
        "exchange",
        "models",
        "pairing",
        "replay",
        "request",
        "votes",
        "workbench",
        "errors",
    },
    "evaluation": {"decoding", "models", "request", "settings", "workbench", "errors"},
}
# The page is above them all.
MAY_IMPORT["ui"] = set(MAY_IMPORT)
DATABASE = ("sqlalchemy", "alembic", "psycopg")
ONLY_IN = {"gradio": {"ui"}, "gradio_client": set(), **{name: {"votes"} for name in DATABASE}}
FILE_ACCESS = {"pathlib", "os", "io", "shutil", "tempfile", "glob", "fileinput", "mmap", "sqlite3", "logging"}
UNSAFE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LONGEST = 400

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))


def module_name(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


@cache
def imports(file: Path) -> frozenset[str]:
    """Every module that the file imports anywhere, functions included; names of the package in full."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(found)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def is_free(file: Path) -> bool:
    return file.name in ("__main__.py", "app.py")


def calls(file: Path, name: str) -> list[ast.Call]:
    """Every call of `name`, dotted as it is written."""
    tree = ast.walk(ast.parse(file.read_text("utf-8")))
    return [node for node in tree if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_the_files_were_found():
    assert {"ram_demo", "ram_demo.decoding.engine", "ram_demo.votes.store", "ram_demo.ui.layout"} <= set(MODULES)
    assert "ram_demo.models.language_model" in imports(MODULES["ram_demo.decoding.engine"])
    assert "ram_demo.request" in imports(MODULES["ram_demo.__main__"]), "imports inside functions count"


@each_file
def test_a_room_imports_only_what_stands_below_it(file):
    mine = room(module_name(file))
    if is_free(file) or not mine:
        return
    assert mine in MAY_IMPORT, f"{mine} has no place in the order of imports; give it one"
    foreign = {module for module in imports(file) if module.startswith("ram_demo.") and room(module) != mine}
    wrong = {module for module in foreign if room(module) not in MAY_IMPORT[mine]}
    assert not wrong, f"{file.name} imports {sorted(wrong)}"


def test_the_order_of_rooms_has_no_circle():
    def below(name, path=()):
        assert name not in path, f"a circle: {path} {name}"
        for other in MAY_IMPORT[name]:
            below(other, (*path, name))

    for name in MAY_IMPORT:
        below(name)


@pytest.mark.parametrize("file", [*FILES, ROOT / "app.py"], ids=lambda file: file.name)
@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_room(file, library):
    if file.is_relative_to(PACKAGE) and room(module_name(file)) in ONLY_IN[library]:
        return
    assert library not in {module.split(".")[0] for module in imports(file)}


@pytest.mark.parametrize("start", ["decoding", "models", "training", "request", "workbench", "errors", "settings"])
def test_nothing_reached_from_a_lower_room_brings_the_page_or_the_database(start):
    waiting = [module for module in MODULES if room(module) == start]
    reached = set()
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += [other for other in imports(MODULES[module]) if other in MODULES]
    outside = {other.split(".")[0] for module in reached for other in imports(MODULES[module])}
    assert len(reached) >= 1
    assert not outside & {"gradio", *DATABASE}


@pytest.mark.parametrize("file", [f for f in FILES if room(module_name(f)) == "decoding"], ids=lambda file: file.name)
def test_decoding_touches_no_files(file):
    assert not FILE_ACCESS & {module.split(".")[0] for module in imports(file)}
    assert not calls(file, "open") and not calls(file, "torch.save")


@each_file
def test_only_safe_formats_are_read(file):
    source = file.read_text("utf-8")
    assert not UNSAFE & {module.split(".")[0] for module in imports(file)}
    for name in ("torch.load", "torch.jit.load", "pickle.load", "np.load", "numpy.load", "eval", "exec", "__import__"):
        assert not calls(file, name), f"{name} is called"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "weights_only"):
            assert isinstance(node.value, ast.Constant), f"{node.arg} must be written out"
            assert node.value.value is (node.arg == "weights_only")
    for call in calls(file, "AutoModelForCausalLM.from_pretrained"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("use_safetensors") == "True" or "gguf_file" in given


@each_file
def test_a_file_says_what_it_is_and_stays_readable(file):
    source = file.read_text("utf-8")
    assert (ast.get_docstring(ast.parse(source)) or "").strip(), "no docstring"
    assert len(source.splitlines()) <= LONGEST

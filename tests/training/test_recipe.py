"""Recipes as people write them: what is read, and what is refused in one sentence."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml

from ram_demo.errors import UserError
from ram_demo.models.aligners import read_card
from ram_demo.settings import SHIPPED_ALIGNERS
from ram_demo.training import recipe
from ram_demo.training.recipe import Recipe

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "assets" / "recipes").glob("*.yaml"))
LEAST = {"name": "short", "description": "Says little.", "data": "x.jsonl", "data_license": "CC0"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "short.yaml"


def read(file, **values) -> Recipe:
    file.write_text(yaml.safe_dump({**LEAST, **values}), "utf-8")
    return recipe.read(file)


def refusal(file, **values) -> str:
    with pytest.raises(UserError) as caught:
        read(file, **values)
    sentence = " ".join(str(caught.value).split())
    assert sentence.endswith("."), sentence
    return sentence


def test_the_least_recipe_takes_the_papers_values(file):
    least = read(file)
    assert (least.name, least.loss, least.alpha) == ("short", "ram_sft", 1e-4)
    assert least.base == "SmolLM2-135M-Instruct"
    assert (least.tau, least.beta, least.mode) == (None, None, "product"), "as the calibration finds"


def test_every_value_can_be_set(file):
    given = {
        "license": "MIT", "base": "/models/x", "loss": "sft", "alpha": 0.5, "lora_rank": 2, "lora_alpha": 4,
        "lora_targets": ["q_proj"], "epochs": 5, "batch_size": 3, "learning_rate": 0.01, "warmup": 0.2,
        "weight_decay": 0.1, "clip": 0.5, "max_tokens": 99, "synthesis_tokens": 9, "seed": 11, "beta": 2.0, "tau": 0.3,
        "mode": "par", "method": "full", "dpo_beta": 0.2, "accumulate": 2, "held_out": 0.3, "checkpoint_every": 7,
        "leave_out_bad_rows": True, "data_source": "https://a.b/c", "anchors": ["/d/more.jsonl"], "answers_from": "http://a.b/v1",
        "answers_model": "m", "warm_up_epochs": 2, "warm_up_rate": 1e-4, "anchor": 0.1,
    }  # fmt: skip
    assert {*given, *LEAST} == {field.name for field in fields(Recipe)}, "a field is missing from this test"
    for left_out in ("anchors", "method"):  # which exclude each other
        said = {name: value for name, value in {**LEAST, **given}.items() if name != left_out}
        made = read(file, **said)
        for name, value in said.items():
            assert getattr(made, name) == (tuple(value) if isinstance(value, list) else value)


def test_anchors_lie_beside_the_recipe_and_count_by_their_names(file):
    made = read(file, anchors=["more/rows.jsonl", "/absolute/others.jsonl"])
    assert made.anchors == (str(file.parent / "more" / "rows.jsonl"), "/absolute/others.jsonl")
    assert made.hash == read(file, anchors=["/elsewhere/rows.jsonl", "others.jsonl"]).hash != read(file).hash


def test_a_recipe_written_out_is_read_as_the_same(file):
    for made in (read(file), read(file, tau=0.5, lora_targets=["q_proj"], learning_rate=5e-5, description="a: b # é")):
        file.write_text(made.to_yaml(), "utf-8")
        assert recipe.read(file) == made
    assert set(yaml.safe_load(read(file).to_yaml())) == set(LEAST), "what is as usual is not said"


def test_a_run_of_an_older_version_is_read_unless_it_needs_what_is_no_more(file):
    made = read(file, lora_targets=["q_proj"])
    kept = json.loads(json.dumps(asdict(made)))
    del kept["anchors"]
    assert Recipe.from_json({**kept, "also": ""}) == made
    with pytest.raises(UserError, match="recipes had 'also'"):
        Recipe.from_json({**kept, "also": "more.jsonl"})


def test_anchors_are_for_an_adapter(file):
    assert "method lora" in refusal(file, method="full", anchors=["x.jsonl"])


def test_a_whole_number_is_a_number(file):
    made = read(file, beta=2, tau=0, learning_rate=1)
    assert (made.beta, made.tau, made.learning_rate) == (2.0, 0.0, 1.0)
    assert isinstance(made.beta, float) and isinstance(made.tau, float)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_read(path):
    shipped = recipe.read(path)
    assert shipped.name == path.stem
    assert (path.parent / shipped.data).is_file() or shipped.data_source.startswith("https://")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_aligner_was_made_by_the_recipe_beside_it(path):
    assert read_card(SHIPPED_ALIGNERS / path.stem).recipe["hash"] == recipe.read(path).hash


def test_a_number_without_a_dot_is_a_number(file):
    """PyYAML follows YAML 1.1, to which 2e-4 is text."""
    file.write_text(yaml.safe_dump(LEAST) + "learning_rate: 2e-4\nalpha: 1\n")
    assert (recipe.read(file).learning_rate, recipe.read(file).alpha) == (2e-4, 1.0)


def test_there_is_a_recipe_for_each_set_of_examples():
    assert {path.stem for path in SHIPPED} == {"concise", "pirate", "tldr", "harmless"}


@pytest.mark.parametrize("key", LEAST)
def test_a_missing_key_is_named(file, key):
    file.write_text(yaml.safe_dump({k: v for k, v in LEAST.items() if k != key}))
    with pytest.raises(UserError, match=f"incomplete.*'{key}'"):
        recipe.read(file)


def test_an_unknown_key_is_named_beside_those_there_are(file):
    sentence = refusal(file, learning_rat=1e-3)
    assert "'learning_rat'" in sentence and "learning_rate" in sentence


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("description", None),
        ("data", ["a"]),
        ("epochs", 1.5),
        ("epochs", "three"),
        ("epochs", True),
        ("learning_rate", "slow"),
        ("learning_rate", None),
        ("learning_rate", False),
        ("tau", "auto"),
        ("seed", None),
        ("lora_targets", "q_proj"),
        ("lora_targets", [1]),
        ("lora_targets", {"q_proj": 1}),
        ("anchors", "more.jsonl"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(file, key, value):
    assert key in refusal(file, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("lora_rank", "lora_alpha", "epochs", "batch_size", "learning_rate", "max_tokens")
            for value in (0, -1)
        ),
        ("synthesis_tokens", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("alpha", float("nan")),
        ("clip", 0.0),
        ("clip", -1.0),
        ("beta", -1.0),
        ("beta", float("nan")),
        ("tau", -0.1),
        ("tau", float("nan")),
        ("seed", -1),
        ("seed", 2**70),
        ("lora_targets", []),
        ("anchor", 0.0),
        ("loss", "rlhf"),
    ],
)
def test_a_value_out_of_its_range_is_named(file, key, value):
    assert key in refusal(file, **{key: value})


# A recipe's name becomes a folder beside other people's aligners, and the name of a lane.
@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "a/b", "/tmp/x", ".hidden", "base", "a+b", "a:2", "a\nb"])
def test_a_name_that_is_no_folders_name_is_refused(file, name):
    assert "name" in refusal(file, name=name)


@pytest.mark.parametrize(
    "content", ["", "[]", "just words", "a: b: c", "\t- x", "!!python/object/apply:os.system [ls]"]
)
def test_what_is_no_mapping_is_refused(file, content):
    file.write_text(content)
    with pytest.raises(UserError, match=r"short\.yaml"):
        recipe.read(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no recipe at"):
        recipe.read(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        recipe.read(tmp_path)


def test_the_hash_is_of_what_shapes_the_weights_in_any_order(file):
    least = read(file)
    file.write_text(yaml.safe_dump(dict(reversed(LEAST.items())), sort_keys=False))
    assert recipe.read(file).hash == least.hash
    other = {float: 0.77, int: 77, str: "other", tuple[str, ...]: ("z",)}
    changed = {f.name: replace(least, **{f.name: other.get(f.type, 0.77)}).hash for f in fields(Recipe)}
    same = {name for name, made in changed.items() if made == least.hash}
    # What only the card says can be put right without training again.
    assert same == {
        "name", "description", "license", "data_license", "data_source", "beta", "tau", "mode", "checkpoint_every",
    }  # fmt: skip
    assert len(set(changed.values())) == 1 + len(changed) - len(same)

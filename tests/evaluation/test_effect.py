"""An aligner's measured effect, against numbers worked out by hand."""

import json

import pytest

from ram_demo.errors import UserError
from ram_demo.evaluation import effect
from ram_demo.models.aligners import CARD, Card, Package, read_card


def test_prompts_are_read_and_bad_files_named(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert effect.read_prompts(file) == ["a", "b"]
    for content in ("", "not json", '{"question": "a"}', "[1]"):
        file.write_text(content)
        with pytest.raises(UserError):
            effect.read_prompts(file)


def test_the_result_goes_into_the_card_and_nothing_else_changes(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    before = Card(tmp_path.name, "words", beta=2.0, mode="ratio")
    (tmp_path / CARD).write_text(json.dumps(before.to_json()))
    effect.write(Package(tmp_path.name, tmp_path, read_card(tmp_path), False), {"prompts": 40})
    after = read_card(tmp_path)
    assert after.effect == {"prompts": 40}
    assert (after.description, after.beta, after.mode) == ("words", 2.0, "ratio")

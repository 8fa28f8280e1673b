"""An aligner's measured effect, against numbers worked out by hand."""

import json
import threading

import pytest

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.trace import Trace
from ram_demo.errors import UserError
from ram_demo.evaluation import effect
from ram_demo.models.aligners import CARD, Card, Package, read_card
from ram_demo.request import BASE, OWN_MODE, Choice, Request
from ram_demo.workbench import Workbench
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread


def test_prompts_are_read_and_bad_files_named(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert effect.read_prompts(file) == ["a", "b"]
    for content in ("", "not json", '{"question": "a"}', "[1]", '{"prompt": 3}', '{"prompt": " "}'):
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


@pytest.fixture
def roomy(tmp_path):
    """A workbench around a model that reads more than the longest answer."""
    settings = tiny_workbench.settings(tmp_path)
    tiny.save(tmp_path / "base", tiny.model(spread=0.6, max_position_embeddings=256))
    tiny.adapter(settings.own_aligners / "a", tmp_path / "base", seed=1)
    return Workbench(settings, tiny_workbench.load(tmp_path / "base"))


def seeds_of(bench, prompt: str, seed: int) -> list[list[int]]:
    """The tokens of both lanes at a seed, asked for as anybody would."""
    settings = DecodingSettings(mode=OWN_MODE, seed=seed)
    plan = bench.plan(Request(prompt, ((Choice("a"),),), settings=settings))
    traces = {e.lane: e for e in bench.run(plan, threading.Event(), 1) if isinstance(e, Trace)}
    return [[step.token for step in traces[lane].steps] for lane in (BASE, "a")]


def said_again(tokens: list[int]) -> float:
    runs = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return sum(run in runs[:i] for i, run in enumerate(runs)) / max(1, len(runs))


def test_each_prompt_is_answered_at_each_seed_and_counts_once(roomy):
    prompts = ["a", "b c", "d"]
    told = []
    found = effect.measure(roomy, "a", prompts, [], lambda words, share: told.append(share), seeds=2)
    first = DecodingSettings().seed
    answers = [[seeds_of(roomy, prompt, seed) for seed in (first, first + 1)] for prompt in prompts]
    base, aligned = ([said_again(both[lane]) for two in answers for both in two] for lane in (0, 1))
    assert sum(base) != sum(aligned), "the lanes differ in what is measured"
    assert found["base"]["repetition"] == pytest.approx(sum(base) / 6, abs=1e-4)
    assert found["aligned"]["repetition"] == pytest.approx(sum(aligned) / 6, abs=1e-4)
    apart = [(aligned[i] + aligned[i + 1] - base[i] - base[i + 1]) / 2 for i in (0, 2, 4)]
    mean = sum(apart) / 3
    error = (sum((x - mean) ** 2 for x in apart) / 2 / 3) ** 0.5
    assert found["repetition_added"] == pytest.approx(mean, abs=1e-4)
    assert found["repetition_added_error"] == pytest.approx(error, abs=1e-4)
    assert found["settings"]["seeds"] == 2 and found["prompts"] == 3
    assert len(told) == 7 and told == sorted(told)


def test_of_one_prompt_no_error_can_be_told(roomy):
    found = effect.measure(roomy, "a", ["a"], [], lambda *_: None)
    assert "repetition_added" in found and "repetition_added_error" not in found
    json.dumps(found, allow_nan=False)

"""The same prompts through the decoder, package after package, without confusing one for the other."""

import json
import shutil
import threading

from safetensors.torch import load_file, save_file

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.evaluation import samples
from ram_demo.evaluation.health import findings
from ram_demo.evaluation.likelihood import Text
from ram_demo.request import OWN_MODE, Choice, Request
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread


def test_each_package_answers_for_itself(bench, made, tmp_path):
    first, second = tmp_path / "step-1" / "package", tmp_path / "step-2" / "package"
    shutil.copytree(made / "own" / "a", first)
    tiny.adapter(second, made / "base", seed=9)
    ids = bench.proposal.encode_prompt("the tin")
    asked = [samples.Asked("the tin", Text(ids, ()))]
    one = samples.answer(bench, first, asked, threading.Event())
    other = samples.answer(bench, second, asked, threading.Event())
    again = samples.answer(bench, first, asked, threading.Event())
    assert one == again
    assert one[0]["base"] == other[0]["base"] and one[0]["aligned"] != other[0]["aligned"]
    # And it is what the workbench says for that very aligner.
    bench.registry.own = made / "own"
    settings = DecodingSettings(mode=OWN_MODE, max_new_tokens=samples.TOKENS)
    plan = bench.plan(Request("the tin", ((Choice("a"),),), settings=settings))
    (trace,) = [e for e in bench.run(plan, threading.Event()) if getattr(e, "lane", "") == "a"]
    assert one[0]["aligned"] == trace.text and one[0]["prompt"] == "the tin"
    told = [finding.to_json() for finding in findings(trace) if finding.kind != "length"]
    assert one[0]["health"] == json.loads(json.dumps(told))


def test_what_is_wrong_with_an_answer_lies_beside_it_but_not_that_it_was_cut(bench, made, tmp_path):
    package = tmp_path / "step-1" / "package"
    shutil.copytree(made / "own" / "a", package)
    weights = load_file(package / "adapter_model.safetensors")
    save_file({name: tensor * 0 for name, tensor in weights.items()}, package / "adapter_model.safetensors")
    asked = [samples.Asked(words, Text(bench.proposal.encode_prompt(words), ())) for words in ("the tin", "a hat")]
    for answer in samples.answer(bench, package, asked, threading.Event()):
        assert answer["done"] == "length" and len(answer["aligned"]) > 0
        assert answer["health"][-1]["kind"] == "no effect" and answer["health"][-1]["level"] == "warning"
        assert "length" not in {finding["kind"] for finding in answer["health"]}

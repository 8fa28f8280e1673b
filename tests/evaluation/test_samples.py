"""The same prompts through the decoder, package after package, without confusing one for the other."""

import shutil
import threading

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.evaluation import samples
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

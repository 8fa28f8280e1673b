"""The command line, in process, with tiny models: the JSON contract recomputed, and one line for each mistake."""

import csv
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ram_demo import views, workbench
from ram_demo.__main__ import main
from ram_demo.votes import Battle, Response, VoteStore
from tests import tiny, tiny_workbench

one_thread = tiny_workbench.one_thread
ROOT = Path(__file__).resolve().parent.parent
STEP = {
    "lane", "index", "token", "text", "kl", "gated", "nucleus", "support", "entropy", "base_token", "ms", "candidates",
}  # fmt: skip
MORE = {"push", "rank_p", "rank", "mass", "compose"}
CANDIDATE = {"token", "text", "p", "q", "weight"}
CLOSING = {
    "lane", "done", "text", "tokens", "tokens_per_s", "first_token_ms", "gated_share", "mean_kl", "seed", "settings",
    "health",
}  # fmt: skip
CONTEXT = 256
TIMES = ("ms", "tokens_per_s", "first_token_ms")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A proposal and aligners made once."""
    folder = tmp_path_factory.mktemp("made")
    tiny.save(folder / "base", tiny.model(max_position_embeddings=CONTEXT))
    tiny.save(folder / "foreign", tiny.model(seed=5), tiny.byte_level(swap=(100, 101)))
    for seed, name in enumerate("ab", 1):
        tiny.adapter(folder / "aligners" / name, folder / "base", seed=seed)
    tiny.adapter(folder / "broken" / "foreign-base", folder / "foreign")
    return folder


@pytest.fixture
def data(made, tmp_path, monkeypatch):
    """The user's data folder, with the aligners a and b in it; the proposal is the tiny one."""
    folder = tmp_path / "data"
    for name in "ab":
        copy(made / "aligners" / name, folder / "aligners" / name)
    for name in [name for name in os.environ if name.startswith("RAM_DEMO_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "DATA": folder,
        "CACHE": tmp_path / "cache",
        "DTYPE": "float32",
        "MODEL": made / "base",
    }.items():
        monkeypatch.setenv(f"RAM_DEMO_{name}", str(value))
    return folder


def copy(source: Path, target: Path, **config) -> Path:
    target.mkdir(parents=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (target / file).write_bytes((source / file).read_bytes())
    whole = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**whole, **config}))
    return target


@pytest.fixture
def call(data, capsys):
    """Run a command. Returns its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def generate(call):
    """`generate --json` of a short answer. Returns its steps by lane and its closing objects by lane."""

    def run(*arguments: str) -> tuple[dict[str, list[dict]], dict[str, dict]]:
        code, out, err = call("generate", "--prompt", "the tin", "--max-new-tokens", "8", "--json", *arguments)
        assert code == 0, err
        objects = [strict(line) for line in out.splitlines()]
        steps, closing = {}, {}
        for record in objects:
            if "done" in record:
                assert record["lane"] not in closing, "one closing object a lane"
                closing[record["lane"]] = record
            else:
                assert record["lane"] not in closing, "nothing of a lane after it closed"
                steps.setdefault(record["lane"], []).append(record)
        return steps, closing

    return run


def strict(line: str) -> dict:
    """One JSON object as the standard has it: no NaN, no Infinity."""
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def timeless(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def mistake(call, *arguments: str) -> str:
    """The one line that a mistake gets; nothing on standard output, no traceback, exit code 2."""
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    *progress, sentence = err.splitlines()
    assert all(line.startswith(("Loading", "Downloading")) for line in progress if line.strip()), err
    assert len(sentence) > 10
    return sentence


def normalised(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


# The contract -------------------------------------------------------------------------------------------------------


def test_generate_prints_the_contracts_objects(generate):
    steps, closing = generate("--aligner", "a:0.5")
    assert list(closing) == ["base", "a"] and set(steps) == {"base", "a"}
    for lane, records in steps.items():
        assert [record["index"] for record in records] == list(range(len(records)))
        for record in records:
            assert STEP <= set(record) <= STEP | MORE
            assert all(set(candidate) == CANDIDATE for candidate in record["candidates"])
            listed = [candidate["token"] for candidate in record["candidates"]]
            assert {record["token"], record["base_token"]} <= set(listed) and len(set(listed)) == len(listed)
            assert isinstance(record["token"], int) and isinstance(record["gated"], bool)
            assert record["kl"] >= 0 and 0 <= record["support"] <= 1.0001 and record["ms"] >= 0
        last = closing[lane]
        assert set(last) == CLOSING
        assert last["done"] in ("eos", "length") and (last["done"] == "length") == (len(records) == 8)
        assert last["text"] == "".join(record["text"] for record in records)
        assert (last["tokens"], last["seed"], last["settings"]["seed"]) == (len(records), 7, 7)
        assert last["mean_kl"] == pytest.approx(sum(record["kl"] for record in records) / len(records))
        assert last["gated_share"] == pytest.approx(sum(record["gated"] for record in records) / len(records))
        assert last["settings"]["lanes"]["a"][0]["beta"] == 0.5


def test_p_and_q_are_what_transformers_and_peft_say(generate, made):
    steps, _ = generate(
        "--aligner", "a", "--show", "0", "--top-p", "1", "--repetition-penalty", "1", "--temperature-p", "1.3",
        "--temperature-q", "0.8",
    )  # fmt: skip
    ids = tiny_workbench.load(made / "base").encode_prompt("the tin")
    base = AutoModelForCausalLM.from_pretrained(made / "base", dtype=torch.float32)
    aligned = tiny.merged(made / "base", made / "aligners" / "a")
    for record in steps["a"]:
        with torch.inference_mode():
            p, q = (
                torch.softmax(model(torch.tensor([ids])).logits[0, -1] / temperature, -1)
                for model, temperature in ((base, 1.3), (aligned, 0.8))
            )
        listed = [c["token"] for c in record["candidates"]]
        assert len(listed) == len(p)
        assert [c["p"] for c in record["candidates"]] == pytest.approx(p[listed].tolist(), rel=1e-3, abs=1e-6)
        assert [c["q"] for c in record["candidates"]] == pytest.approx(q[listed].tolist(), rel=1e-3, abs=1e-6)
        ids = [*ids, record["token"]]


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_product_weights_are_p_times_q_to_the_strength_sharpened(generate, beta):
    steps, _ = generate("--aligner", f"a:{beta}", "--show", "0", "--temperature-p", "1.3", "--temperature-q", "0.8")
    for record in steps["a"]:
        candidates = record["candidates"]
        assert len(candidates) == record["nucleus"]
        assert sum(c["p"] for c in candidates) == pytest.approx(1, abs=1e-4)
        assert sum(c["weight"] for c in candidates) == pytest.approx(1, abs=1e-4)
        assert sum(c["q"] for c in candidates) == pytest.approx(record["support"], abs=1e-4)
        expected = normalised([(c["p"] * c["q"] ** beta) ** (1 / 0.7) for c in candidates])
        assert [c["weight"] for c in candidates] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    for record in steps["base"]:
        expected = normalised([c["p"] ** (1 / 0.7) for c in record["candidates"]])
        assert [c["weight"] for c in record["candidates"]] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert record["token"] == record["base_token"] and record["kl"] == 0 and not record["gated"]


def test_par_weights_are_q_alone(generate):
    steps, _ = generate("--aligner", "a:2", "--mode", "par", "--show", "0", "--temperature", "1.4")
    for record in steps["a"]:
        expected = normalised([c["q"] ** (2 / 1.4) for c in record["candidates"]])
        assert [c["weight"] for c in record["candidates"]] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_ratio_weights_are_p_times_q_over_the_bases_own(generate):
    steps, _ = generate("--aligner", "a:2", "--mode", "ratio", "--show", "0", "--temperature-p", "1.5")
    # At the first step the lanes stand in one context, and the base lane's q is its own model's at T_Q.
    q0 = {c["token"]: c["q"] for c in steps["base"][0]["candidates"]}
    candidates = steps["a"][0]["candidates"]
    assert len(candidates) > 5
    expected = normalised([(c["p"] * (c["q"] / q0[c["token"]]) ** 2) ** (1 / 0.7) for c in candidates])
    assert [c["weight"] for c in candidates] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_sis_weights_are_counts_of_draws_times_q(generate):
    draws = 12
    steps, _ = generate(
        "--aligner", "a", "--mode", "sis", "--candidates", draws, "--show", "0", "--temperature", "1"
    )  # fmt: skip
    for record in steps["a"]:
        drawn = [c for c in record["candidates"] if c["weight"] > 0]
        counts = [c["weight"] / c["q"] for c in drawn]
        assert 1 <= len(drawn) <= draws
        # Up to one factor these are whole numbers whose sum is the number of draws.
        counts = [count * draws / sum(counts) for count in counts]
        assert counts == pytest.approx([round(count) for count in counts], abs=1e-3)


def test_a_gated_step_weighs_as_the_base(generate):
    steps, closing = generate("--aligner", "a", "--tau", "0", "--show", "0")
    assert closing["a"]["gated_share"] == 1 and closing["a"]["text"] == closing["base"]["text"]
    for record in steps["a"]:
        expected = normalised([c["p"] ** (1 / 0.7) for c in record["candidates"]])
        assert [c["weight"] for c in record["candidates"]] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert record["kl"] > 0
    _, off = generate("--aligner", "a", "--tau", "off")
    assert off["a"]["gated_share"] == 0


def test_the_cards_own_threshold_and_strength_are_auto(generate, data):
    (data / "aligners" / "a" / "aligner.json").write_text(json.dumps({"tau": 0.0, "beta": 0.25}))
    _, closing = generate("--aligner", "a")
    assert closing["a"]["gated_share"] == 1
    assert closing["a"]["settings"]["lanes"]["a"][0]["beta"] == 0.25
    _, closing = generate("--aligner", "a:2", "--tau", "off")
    assert closing["a"]["gated_share"] == 0
    assert closing["a"]["settings"]["lanes"]["a"][0]["beta"] == 2


def test_strength_zero_is_the_base_token_for_token(generate):
    steps, closing = generate("--aligner", "a:0", "--aligner", "b:0", "--each")
    for lane in ("a", "b"):
        assert [record["token"] for record in steps[lane]] == [record["token"] for record in steps["base"]]
        assert closing[lane]["text"] == closing["base"]["text"]


def test_temperature_zero_takes_the_weightiest(generate):
    steps, _ = generate("--aligner", "a", "--temperature", "0", "--show", "0")
    for record in steps["a"]:
        best = max(record["candidates"], key=lambda c: c["p"] * c["q"])
        assert record["token"] == best["token"] and best["weight"] == 1


@pytest.mark.parametrize(
    ("options", "lanes"),
    [
        ((), ["base"]),
        (("--aligner", "a"), ["base", "a"]),
        (("--aligner", "b", "--aligner", "a"), ["base", "b+a"]),
        (("--aligner", "a", "--aligner", "b", "--each"), ["base", "a", "b"]),
        (("--aligner", "a", "--each"), ["base", "a"]),
    ],
)
def test_lanes_have_their_names(generate, options, lanes):
    steps, closing = generate(*options)
    assert sorted(closing) == sorted(steps) == sorted(lanes)


def test_a_composed_lane_multiplies_its_aligners_and_shows_each_gate(generate):
    steps, closing = generate("--aligner", "a", "--aligner", "b", "--show", "0")
    for record in steps["a+b"]:
        assert STEP <= set(record) <= STEP | MORE | {"monitors"}
        assert [monitor["aligner"] for monitor in record["monitors"]] == ["a", "b"]
        assert record["kl"] == pytest.approx(max(monitor["kl"] for monitor in record["monitors"]))
        # q is what both say together: their product, normalised, so at strength 1 it weighs as one aligner would.
        expected = normalised([(c["p"] * c["q"]) ** (1 / 0.7) for c in record["candidates"]])
        assert [c["weight"] for c in record["candidates"]] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert closing["a+b"]["tokens"] == len(steps["a+b"])


def test_one_seed_gives_one_answer(generate):
    first, again, other = (generate("--aligner", "a", "--seed", seed) for seed in ("11", "11", "12"))
    for ours, theirs in zip(first, again, strict=True):
        assert {k: timeless(v if isinstance(v, list) else [v]) for k, v in ours.items()} == {
            k: timeless(v if isinstance(v, list) else [v]) for k, v in theirs.items()
        }
    assert [r["token"] for r in first[0]["base"]] != [r["token"] for r in other[0]["base"]]
    assert other[1]["base"]["seed"] == 12


def test_only_so_many_candidates_are_shown_as_are_asked_for(generate):
    steps, _ = generate("--aligner", "a", "--show", "3", "--top-p", "1")
    everything, _ = generate("--aligner", "a", "--show", "0", "--top-p", "1")
    for few, all_of_them in zip(steps["a"], everything["a"], strict=True):
        assert few["token"] == all_of_them["token"]
        assert 3 <= len(few["candidates"]) <= 5 < len(all_of_them["candidates"])
        heaviest = max(all_of_them["candidates"], key=lambda c: c["weight"])
        assert few["candidates"][0]["token"] == heaviest["token"]


def test_top_k_and_top_p_shape_the_net(generate):
    steps, _ = generate("--top-k", "4", "--top-p", "1", "--show", "0")
    assert all(record["nucleus"] == len(record["candidates"]) == 4 for record in steps["base"])
    steps, _ = generate("--top-p", "0.01", "--show", "0")
    assert all(record["nucleus"] == 1 for record in steps["base"])


def test_people_read_both_answers(call):
    code, out, _ = call("generate", "--prompt", "the tin", "--max-new-tokens", "4", "--aligner", "a")
    assert code == 0
    assert "[base] " in out and "[a] " in out and "KL" in out
    assert out.index("[base]") < out.index("[a]")


def test_what_is_wrong_with_an_answer_is_told_with_it(generate, call):
    loop = ("--aligner", "a:0", "--temperature", "0", "--top-p", "0.01", "--max-new-tokens", "40")
    _, closing = generate(*loop)
    for lane, kinds in (("base", ["loop"]), ("a", ["loop", "no effect"])):
        found = closing[lane]["health"]
        assert [finding["kind"] for finding in found] == kinds, "of the base nothing that needs an aligner"
        assert all(set(finding) == {"kind", "says", "advice", "at", "level"} for finding in found)
        begin, count = found[0]["at"]
        assert begin + count == closing[lane]["tokens"] == 40
    code, out, _ = call("generate", "--prompt", "the tin", *loop)
    assert code == 0
    base, aligned = out.split("[a] ")
    for text, lane in ((base, "base"), (aligned, "a")):
        lines = [f"- {f['kind']}: {f['says']} {f['advice']}" for f in closing[lane]["health"]]
        assert text.splitlines()[1 : 1 + len(lines)] == lines


def test_a_model_can_be_named_over_the_environments(generate, made, tmp_path):
    other = tiny.save(tmp_path / "other", tiny.model(seed=8))
    ours, theirs = generate(), generate("--model", other)
    assert theirs[1]["base"]["settings"]["proposal"] == "other"
    assert ours[1]["base"]["settings"]["proposal"] == "base"


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script> ${x} {{y}}", "👩‍👩‍👧 \u202e evil", "a\ud800b", "<|im_end|>", "-x"]
)
def test_any_text_is_a_prompt(call, text):
    code, out, _ = call("generate", "--prompt", text, "--max-new-tokens", "2", "--json")
    assert code == 0
    assert [strict(line)["lane"] for line in out.splitlines()] == ["base"] * 3 or len(out.splitlines()) == 2


# Mistakes -----------------------------------------------------------------------------------------------------------

P = ("generate", "--prompt", "the tin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "--prompt", ""), "The prompt is empty"),
        (("generate", "--prompt", " \n "), "The prompt is empty"),
        (("generate",), "--prompt"),
        ((*P, "--aligner", "absent"), "'absent'"),
        ((*P, "--aligner", "a", "--aligner", "a"), "twice"),
        ((*P, "--aligner", "a:1", "--aligner", "a:2", "--each"), "twice"),
        ((*P, "--aligner", "a:-1"), "strength of a"),
        ((*P, "--aligner", "a:nan"), "strength of a"),
        ((*P, "--aligner", "a:11"), "strength of a"),
        ((*P, "--aligner", "a:strong"), "strength of a"),
        ((*P, "--aligner", ":1"), "names no aligner"),
        ((*P, "--mode", "sum"), "'sum'"),
        ((*P, "--model", "no-such-model"), "'no-such-model'"),
        ((*P, "--model", "/no/such/folder"), "/no/such/folder"),
        ((*P, "--model", ""), "model"),
        ((*P, "--tau", "-0.5"), "gate"),
        ((*P, "--tau", "nan"), "gate"),
        ((*P, "--tau", "tight"), "gate"),
        ((*P, "--temperature-q", "0"), "aligner's temperature"),
        ((*P, "--temperature-p", "0"), "proposal's temperature"),
        ((*P, "--temperature", "-1"), "final temperature"),
        ((*P, "--temperature", "nan"), "final temperature"),
        ((*P, "--temperature", "hot"), "--temperature"),
        ((*P, "--top-p", "0"), "op-p"),
        ((*P, "--top-p", "1.5"), "op-p"),
        ((*P, "--top-k", "-1"), "op-k"),
        ((*P, "--repetition-penalty", "0"), "repetition penalty"),
        ((*P, "--candidates", "0"), "candidates"),
        ((*P, "--seed", "-1"), "seed"),
        ((*P, "--seed", "seven"), "--seed"),
        ((*P, "--seed", "9" * 400), "seed"),
        ((*P, "--max-new-tokens", "0"), "length"),
        ((*P, "--max-new-tokens", "250"), "room for"),
        ((*P, "--show", "-1"), "--show"),
        ((*P, "--loud"), "--loud"),
        ((*P, "more"), "more"),
        (("sing",), "sing"),
        ((), "ommand"),
        (("votes",), "ommand"),
        (("votes", "export"), "FILE"),
        (("train",), "RECIPE"),
        (("train", "/no/such/recipe.yaml"), "/no/such/recipe.yaml"),
        (("aligners", "--import", "/no/such/adapter.zip"), "/no/such/adapter.zip"),
    ],
    ids=lambda value: " ".join(value[-2:])[:40] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(call, arguments, words):
    assert words.lower() in mistake(call, *arguments).lower()


def test_a_prompt_longer_than_the_context_is_told_by_how_much(call):
    # In this vocabulary a capital Q is one token and never merges.
    template = len(tiny_workbench.load(Path(os.environ["RAM_DEMO_MODEL"])).encode_prompt("Q")) - 1
    over = 30
    prompt = "Q" * (CONTEXT - 1 - template + over)
    assert f" {over} tokens too long" in mistake(call, "generate", "--prompt", prompt, "--max-new-tokens", "1")


def test_truncated_weights_are_one_line(call, data):
    weights = data / "aligners" / "a" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:6], b""):
        weights.write_bytes(content)
        assert "adapter_model.safetensors" in mistake(call, *P, "--aligner", "a")


def test_a_truncated_proposal_is_one_line(call, made, tmp_path):
    folder = tiny.save(tmp_path / "cut", tiny.model())
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    assert "model.safetensors" in mistake(call, *P, "--model", folder)


def test_an_adapter_whose_base_cannot_be_found_is_one_line(call, data, made):
    copy(made / "aligners" / "a", data / "aligners" / "lost", base_model_name_or_path="nobody/no-such-base")
    sentence = mistake(call, *P, "--aligner", "lost")
    assert "lost" in sentence and "nobody/no-such-base" in sentence and "cannot be found" in sentence


def test_an_adapter_with_another_tokenizer_is_one_line(call, data, made):
    copy(made / "broken" / "foreign-base", data / "aligners" / "foreign")
    copy(made / "aligners" / "a", data / "aligners" / "stated")
    (data / "aligners" / "stated" / "aligner.json").write_text('{"tokenizer": "0123456789abcdef"}')
    for name in ("foreign", "stated"):
        sentence = mistake(call, *P, "--aligner", name)
        assert name in sentence and "another tokenizer" in sentence


def test_a_card_out_of_range_is_one_line(call, data):
    cards = (
        ('{"beta": NaN}', "a"),
        ('{"beta": -3}', "a"),
        ('{"beta": 99}', "strength"),
        ('{"tau": -1}', "a"),
        ("{", "a"),
    )
    for card, words in cards:
        (data / "aligners" / "a" / "aligner.json").write_text(card)
        assert words in mistake(call, *P, "--aligner", "a"), card


def test_an_aligner_named_as_the_base_lane_is_one_line(call, data, made):
    copy(made / "aligners" / "a", data / "aligners" / "base")
    assert "base" in mistake(call, *P, "--aligner", "base")


@pytest.mark.parametrize(
    ("name", "value"), [("DTYPE", "int3"), ("PORT", "http"), ("DEVICE", "cuda:99"), ("DEVICE", "x")]
)
def test_a_bad_environment_is_one_line(call, monkeypatch, name, value):
    monkeypatch.setenv(f"RAM_DEMO_{name}", value)
    assert value in mistake(call, *P)


def test_help_is_no_mistake(call):
    for arguments in (("--help",), ("generate", "--help"), ("votes", "export", "--help")):
        code, out, _ = call(*arguments)
        assert code == 0 and "Usage" in out


def test_an_interrupt_is_neither_a_mistake_nor_a_traceback(call, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(workbench, "open_workbench", interrupted)
    code, out, err = call(*P)
    assert (code, out) == (130, "") and "Traceback" not in err


def test_a_defect_fails_loudly(call, monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(workbench, "open_workbench", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        call(*P)


def test_a_real_process_ends_with_two_and_no_traceback(data):
    done = subprocess.run(
        [sys.executable, "-m", "ram_demo", *P, "--aligner", "absent", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "There is no aligner 'absent'; there are: " + ", ".join(shown()) + "."


def shown() -> list[str]:
    """The names that the registry lists: the shipped ones, then the test's own."""
    shipped = ROOT / "assets" / "aligners"
    return [*sorted(path.name for path in shipped.iterdir() if path.is_dir()), "a", "b"]


# The other commands -------------------------------------------------------------------------------------------------


def test_aligners_lists_the_registry(call, data, made):
    (data / "aligners" / "a" / "aligner.json").write_text(json.dumps({"description": "Says «ä».", "beta": 0.5}))
    (data / "aligners" / "bad").mkdir()
    code, out, _ = call("aligners", "--json")
    assert code == 0
    rows = {row["name"]: row for row in map(strict, out.splitlines())}
    assert list(rows) == [*shown(), "bad"]
    assert all({"name", "kind", "base", "tokenizer", "card"} <= set(row) for row in rows.values())
    assert (rows["a"]["kind"], rows["a"]["base"], rows["a"]["problem"]) == ("lora", str(made / "base"), None)
    assert (rows["a"]["card"]["description"], rows["a"]["card"]["beta"]) == ("Says «ä».", 0.5)
    assert "not an aligner" in rows["bad"]["problem"]
    for name in ("concise", "pirate"):
        assert rows[name]["shipped"] and rows[name]["problem"] is None and rows[name]["card"]["license"]
        assert len(rows[name]["tokenizer"]) == 16
    code, out, _ = call("aligners")
    assert code == 0 and all(name in out for name in rows) and "cannot be used" in out


def test_json_stays_json_on_a_terminal_that_knows_ascii_alone(call, data, monkeypatch):
    description = "Ça va 😀 \u202e"
    (data / "aligners" / "a" / "aligner.json").write_text(json.dumps({"description": description}))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["aligners", "--json"]) == 0
    sys.stdout.flush()
    rows = {row["name"]: row for row in map(strict, written.getvalue().decode("ascii").splitlines())}
    assert rows["a"]["card"]["description"] == description


@pytest.mark.parametrize("pack", ["folder", "zip"])
def test_an_imported_aligner_can_be_used_at_once(call, generate, data, made, tmp_path, pack):
    source = copy(made / "aligners" / "a", tmp_path / "sent" / "mine")
    if pack == "zip":
        with zipfile.ZipFile(tmp_path / "sent" / "mine.zip", "w") as archive:
            for file in source.iterdir():
                archive.write(file, file.name)
        source = tmp_path / "sent" / "mine.zip"
    code, out, err = call("aligners", "--import", source, "--json")
    assert code == 0 and "mine" in err
    assert [strict(line)["name"] for line in out.splitlines()] == [*shown(), "mine"]
    imported, original = (generate("--aligner", name)[1] for name in ("mine", "a"))
    assert imported["mine"]["text"] == original["a"]["text"]
    assert "mine already" in mistake(call, "aligners", "--import", source)


def test_an_import_that_does_not_fit_is_one_line_and_leaves_nothing(call, data, made, tmp_path):
    before = sorted((data / "aligners").rglob("*"))
    copy(made / "aligners" / "a", tmp_path / "lost", base_model_name_or_path="nobody/no-such-base")
    (tmp_path / "not.zip").write_text("not a zip")
    (tmp_path / "empty").mkdir()
    for source, words in (
        (made / "broken" / "foreign-base", "another tokenizer"),
        (tmp_path / "lost", "cannot be found"),
        (tmp_path / "not.zip", "not.zip"),
        (tmp_path / "empty", "no aligner"),
    ):
        assert words in mistake(call, "aligners", "--import", source)
    assert sorted((data / "aligners").rglob("*")) == before


def test_models_lists_what_can_be_loaded(call, tmp_path):
    code, out, _ = call("models", "--json")
    assert code == 0
    rows = {row["name"]: row for row in map(strict, out.splitlines())}
    embedded = rows["SmolLM2-135M-Instruct"]
    # This cache is empty, so it is not converted yet.
    assert (embedded["origin"], embedded["path"]) == ("bundled", None)
    assert all(Path(row["path"]).is_dir() for row in rows.values() if row["path"])
    assert call("models")[0] == 0


def test_a_recipe_is_trained_into_the_users_folder_and_used(call, generate, data, made, tmp_path):
    (tmp_path / "examples.jsonl").write_text('{"prompt": "the tin", "completion": "an inn"}\n')
    recipe = tmp_path / "short.yaml"
    recipe.write_text(
        f"name: short\ndescription: Says little.\ndata: examples.jsonl\ndata_license: CC0\nbase: {made / 'base'}\n"
        "synthesis_tokens: 4\nepochs: 9\nheld_out: 0\n"
    )
    code, out, err = call("train", recipe, "--max-steps", "2")
    assert (code, out) == (0, f"{data / 'aligners' / 'short'}\n")
    assert "step 1  total 2" in err and "step 2  total 2" in err
    assert not [name for name in os.listdir(data / "aligners") if "run" in name], "a run is no aligner"
    assert set(generate("--aligner", "short")[1]) == {"base", "short"}
    code, out, _ = call("train", recipe, "--max-steps", "1", "--out", tmp_path / "elsewhere" / "x")
    assert code == 0 and (tmp_path / "elsewhere" / "x" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "elsewhere" / "x.run" / "events.jsonl").is_file()
    assert "no run at" in mistake(call, "train", recipe, "--out", tmp_path / "new", "--resume")
    for steps in ("0", "-1", "few"):
        assert "max-steps" in mistake(call, "train", recipe, "--max-steps", steps)
    recipe.write_text(recipe.read_text() + "speed: 3\n")
    assert "'speed'" in mistake(call, "train", recipe)


@pytest.fixture
def voted(data):
    """Two votes in the user's database."""
    store = VoteStore(f"sqlite:///{data / 'votes.sqlite3'}")
    base = Response("base", "", "", 'It is\nblue, "they" say.', "eos", 5, 20.0, 90.0, None, None, {"steps": []})
    aligned = Response("a", "a:1", "ab12", "=Blue 😀", "length", 2, 21.0, 91.0, 0.5, 1.25, {"steps": [{"token": 3}]})
    for choice in ("b", "tie"):
        battle = Battle("Why?", "me", 7, "product", {"top_p": 0.95}, "tiny", "cd34", base, aligned)
        store.vote(store.record_battle(battle), choice, "me")
    store.close()


def test_votes_are_exported_as_jsonl(call, voted, tmp_path):
    code, out, err = call("votes", "export", tmp_path / "votes.jsonl")
    assert (code, out) == (0, "") and "2 votes" in err
    rows = [strict(line) for line in (tmp_path / "votes.jsonl").read_text("utf-8").splitlines()]
    assert [row["choice"] for row in rows] == ["b", "tie"]
    assert rows[0]["prompt"] == "Why?" and rows[0]["settings"] == {"top_p": 0.95} and rows[0]["seed"] == 7
    assert rows[0]["b"]["text"] == "=Blue 😀" and rows[0]["b"]["trace"] == {"steps": [{"token": 3}]}
    assert all("session" not in row for row in rows), "a session is personal"
    code, out, _ = call("votes", "export", "-", "--format", "jsonl")
    assert code == 0 and [strict(line) for line in out.splitlines()] == rows


def test_votes_are_exported_as_csv(call, voted, tmp_path):
    assert call("votes", "export", tmp_path / "votes.csv", "--format", "csv")[0] == 0
    with (tmp_path / "votes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["choice"] for row in rows] == ["b", "tie"]
    assert rows[0]["a_text"] == 'It is\nblue, "they" say.' and rows[0]["a_tokens"] == "5"
    assert rows[0]["b_text"] == "'=Blue 😀", "no spreadsheet runs it"


def test_votes_come_in_from_a_file_once_and_go_out_for_others(call, voted, tmp_path, monkeypatch):
    assert call("votes", "export", tmp_path / "votes.jsonl", "--voters")[0] == 0
    voters = {strict(line)["voter"] for line in (tmp_path / "votes.jsonl").read_text().splitlines()}
    assert len(voters) == 1 and "me" not in voters
    monkeypatch.setenv("RAM_DEMO_DATABASE_URL", f"sqlite:///{tmp_path / 'other.sqlite3'}")
    for count in (2, 0):
        code, out, err = call("votes", "import", tmp_path / "votes.jsonl")
        assert (code, out) == (0, "") and f"{count} new votes" in err
    code, out, _ = call("votes", "export", "-", "--format", "trl")
    assert code == 0 and [list(strict(line)) for line in out.splitlines()] == [["prompt", "chosen", "rejected"]]
    (tmp_path / "arena.csv").write_text("model_a,model_b,winner\nx,base,model_a\nx,base,nobody\n")
    assert "line 3" in mistake(call, "votes", "import", tmp_path / "arena.csv", "--format", "arena")
    assert "'xml'" in mistake(call, "votes", "import", tmp_path / "arena.csv", "--format", "xml")
    assert "absent" in mistake(call, "votes", "import", tmp_path / "absent")


def test_an_address_of_a_database_is_never_repeated(call, tmp_path, monkeypatch):
    for address in ("mysql://me:secret@db/x", "postgresql+psycopg://me:secret@127.0.0.1:1/x", "sqlite:///"):
        monkeypatch.setenv("RAM_DEMO_DATABASE_URL", address)
        assert "secret" not in mistake(call, "votes", "export", tmp_path / "votes.jsonl")


def test_no_votes_are_an_empty_file_and_not_a_mistake(call, tmp_path):
    code, _, err = call("votes", "export", tmp_path / "none.jsonl")
    assert code == 0 and "0 votes" in err and (tmp_path / "none.jsonl").read_text() == ""


def test_an_export_that_cannot_be_is_one_line(call, voted, tmp_path):
    assert "'xml'" in mistake(call, "votes", "export", tmp_path / "votes.xml", "--format", "xml")
    assert not (tmp_path / "votes.xml").exists()
    for place in (tmp_path, tmp_path / "absent" / "votes.jsonl"):
        assert str(place) in mistake(call, "votes", "export", place)


def test_a_data_folder_that_cannot_be_written_is_one_line(call, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RAM_DEMO_DATA", str(tmp_path / "file" / "data"))
    assert "file" in mistake(call, "votes", "export", tmp_path / "votes.jsonl")


def test_the_leaderboard_is_a_table_or_json(call, voted):
    code, out, _ = call("votes", "leaderboard", "--elo")
    assert code == 0 and "2 votes rated" in out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["lane", "a:1", "base"]
    code, out, _ = call("votes", "leaderboard", "--json")
    lane, base, rest = (strict(line) for line in out.splitlines())
    assert (lane["lane"], lane["strength"], lane["votes"], lane["against_base"]["value"]) == ("a:1", 1.0, 2, 0.75)
    assert lane["low"] < lane["points"] < lane["high"] and lane["points"] > 0
    assert (base["points"], base["against_base"]["value"], base["elo"]) == (0, None, None)
    assert rest["votes"] == 2 and rest["both_bad"]["value"] == 0


def test_a_leaderboard_of_nothing_and_of_what_cannot_be(call, data):
    code, out, _ = call("votes", "leaderboard")
    assert code == 0 and "0 votes" in out
    for option, value in (("--kind", "duel"), ("--cap", "-1"), ("--control", "tone")):
        assert value in mistake(call, "votes", "leaderboard", option, value)


def test_a_trace_is_written_for_the_inspector(call, tmp_path):
    file = tmp_path / "trace.json"
    code, out, _ = call("generate", "--prompt", "the tin", "--aligner", "a", "--max-new-tokens", "8", "--trace", file)
    assert code == 0
    view = views.read(file.read_text("utf-8"), "trace.json")
    assert [lane["name"] for lane in view["turns"][0]["lanes"]] == ["base", "a"]
    assert all(lane["trace"]["text"] in out for lane in view["turns"][0]["lanes"])
    assert "cannot be written" in call("generate", "--prompt", "x", "--max-new-tokens", "1", "--trace", tmp_path)[2]

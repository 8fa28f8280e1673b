"""Tokens a second and seconds to the first one: ours against the peers, by mode, lanes, people and prompt length."""

import statistics
from collections.abc import Iterator

from benchmarks import ours
from benchmarks.peers import LlamaCpp, Transformers
from benchmarks.tables import Figure, Table, alternate, seconds
from ram_demo.decoding.weights import MODES
from ram_demo.request import Choice, Request
from ram_demo.settings import SHIPPED_ALIGNERS
from ram_demo.workbench import Workbench

TOKENS = 100
PROMPTS = (32, 512, 2048)
FEWER = 3  # runs, where one run takes long


def side_by_side(bench: Workbench, plain: Transformers, llama: LlamaCpp | None) -> Iterator[Figure]:
    """Base and aligned answers of one comparison, all peers in turn."""
    ids, lanes = bench.proposal.encode_prompt(ours.PROMPT), ours.lanes(1)
    actions = [
        lambda: ours.compare(bench, lanes, TOKENS).total,
        lambda: seconds(lambda: plain.generate(ids, TOKENS)),
        lambda: seconds(lambda: plain.two_forwards(ids, TOKENS)),
    ]
    if llama:
        actions.append(lambda: seconds(lambda: llama.generate(ids, TOKENS)))
        actions.append(lambda: seconds(lambda: [llama.generate(ids, TOKENS) for _ in range(2)]))
    pair, generate, two, *cpp = alternate(*actions)
    plain_pair = [a + b for a, b in zip(generate, two, strict=True)]

    def rate(times: list[float]) -> list[float]:
        return [TOKENS / t for t in times]

    table = Table("Side by side: base and aligned, one comparison")
    yield table.median("ours", rate(pair), "pairs/s")
    yield table.median("the plain way: generate, then two forwards a token", rate(plain_pair), "pairs/s")
    yield table.median("transformers generate, base alone", rate(generate), "tokens/s")
    yield table.median("two forwards a token, aligned alone", rate(two), "tokens/s")
    if llama:
        yield table.median("llama.cpp 4-bit, base alone", rate(cpp[0]), "tokens/s")
        yield table.median("llama.cpp 4-bit, base and a second pass", rate(cpp[1]), "pairs/s")
    yield table.ratio("pairs against the plain way", plain_pair, pair, "at least 8x")
    yield table.ratio("aligned tokens against generate, base alone", generate, pair, "at least 2.5x")
    if llama:
        yield table.ratio("pairs against llama.cpp, base alone", cpp[0], pair, "at least 0.6x")
        yield table.ratio("pairs against llama.cpp, base and a second pass", cpp[1], pair)
    late = ours.compare(bench, lanes, 400).steps
    growth = statistics.median(late[350:]) / statistics.median(late[50:100])
    yield table.single("a step at token 375 against one at 75", growth, "x")


def by_mode(bench: Workbench) -> Iterator[Figure]:
    """Each mode at its defaults, and the base alone."""
    table = Table("Modes")
    times = alternate(
        *(lambda mode=mode: ours.compare(bench, ours.lanes(1), TOKENS, mode=mode).total for mode in MODES),
        lambda: ours.compare(bench, (), TOKENS).total,
        runs=FEWER,
    )
    for name, column in zip((*MODES, "base alone"), times, strict=True):
        yield table.median(name, [TOKENS / t for t in column], "tokens/s a lane")


def by_lanes(bench: Workbench) -> Iterator[Figure]:
    """1, 2, 4 and 8 aligned lanes beside the base, each with an aligner of its own."""
    table = Table("Aligned lanes beside the base, each with its own aligner")
    counts = (1, 2, 4, 8)
    times = alternate(*(lambda n=n: ours.compare(bench, ours.lanes(n), TOKENS).total for n in counts), runs=FEWER)
    for n, column in zip(counts, times, strict=True):
        yield table.median(f"{n} aligned", [(n + 1) * TOKENS / t for t in column], "tokens/s in all")


def by_people(bench: Workbench) -> Iterator[Figure]:
    """1, 4 and 8 people who compare at once."""
    table = Table("People at once, each base beside aligned")
    counts = (1, 4, 8)
    times = alternate(*(lambda n=n: ours.compare_at_once(bench, n, ours.lanes(1), TOKENS) for n in counts), runs=FEWER)
    for n, column in zip(counts, times, strict=True):
        yield table.median(f"{n} at once", [2 * n * TOKENS / t for t in column], "tokens/s in all")
    yield table.ratio("8 against 1", [8 * t for t in times[0]], times[-1], "at least 3x")


def first_token(bench: Workbench, plain: Transformers, llama: LlamaCpp | None) -> Iterator[Figure]:
    """Time to the first token of both panes, for prompts of several lengths that nobody has asked before."""
    for length in PROMPTS:
        table = Table(f"First token, prompt of {length} tokens")
        prompt = ours.prompt_of(bench, length)
        ids = bench.proposal.encode_prompt(prompt)

        def fresh(aligned: tuple, prompt: str = prompt) -> float:
            ours.forget_prompts(bench)
            return ours.compare(bench, aligned, 1, prompt).first

        def again(prompt: str = prompt) -> float:
            ours.compare(bench, ours.lanes(1), 1, prompt)
            return ours.compare(bench, ours.lanes(1), 1, prompt).first

        actions = [
            lambda: fresh(ours.lanes(1)),
            lambda: fresh(()),
            again,
            lambda ids=ids: seconds(lambda: plain.generate(ids, 1)),
        ]
        if llama:
            actions.append(lambda ids=ids: seconds(lambda: llama.generate(ids, 1)))
        both, alone, repeated, generate, *cpp = ([1000 * t for t in times] for times in alternate(*actions, runs=FEWER))
        yield table.median("ours, both panes", both, "ms")
        yield table.median("ours, base alone", alone, "ms")
        yield table.median("ours, both panes, asked again", repeated, "ms")
        yield table.median("transformers generate, base alone", generate, "ms")
        if llama:
            yield table.median("llama.cpp 4-bit, base alone", cpp[0], "ms")
        wanted = "at most 1.0x" if length == 512 else ""
        yield table.ratio("both panes against generate, base alone", both, generate, wanted)


def swapping(bench: Workbench) -> Iterator[Figure]:
    """Choosing a loaded aligner, loading one, and what it takes in memory."""
    table = Table("Swapping an aligner; the proposal is never loaded again")
    request, model = Request(ours.PROMPT, ((Choice(ours.ALIGNER),),)), bench.proposal.model
    loads, swaps = [], []
    for _ in range(6):
        bench.unload(ours.ALIGNER)
        loads.append(1000 * seconds(lambda: bench.aligners.get(ours.ALIGNER)))
        swaps.append(1000 * seconds(lambda: bench.plan(request)))
    assert bench.proposal.model is model
    held = sum(t.nbytes for layer in model.adapters[ours.ALIGNER] for p in layer.values() for t in (p.down, p.up))
    size = (SHIPPED_ALIGNERS / ours.ALIGNER / "adapter_model.safetensors").stat().st_size / 2**20
    yield table.median("swap to a loaded aligner", swaps[1:], "ms", "under 50")
    yield table.median("load an aligner from disk", loads[1:], "ms", "under 1000")
    yield table.single(f"memory its matrices take, in float32 (its file: {size:.1f} MB)", held / 2**20, "MB")

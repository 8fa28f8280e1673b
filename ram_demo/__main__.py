"""The command line: `python -m ram_demo COMMAND`. Turns options into calls, results into text.

Exit code 0; a user's mistake is one line on standard error and exit code 2. Anything else is a defect and shows its
traceback. Heavy imports are made inside the commands, so that `--help` answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ram_demo.errors import UserError
from ram_demo.settings import from_environment

app = typer.Typer(add_completion=False, help="See a frozen model and its swappable aligners, token by token.")
votes_app = typer.Typer(help="The votes that were collected.")
app.add_typer(votes_app, name="votes")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What is asked.")],
    aligner: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:BETA]", help="An aligner and its strength; several are composed in one lane."),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Several aligners: a lane for each, not one for all.")] = False,
    mode: Annotated[str, typer.Option(help="product, par, sis, ratio, or auto: the aligner's own.")] = "product",
    candidates: Annotated[int, typer.Option(help="n of sis: how many draws stand for the proposal.")] = 16,
    tau: Annotated[str, typer.Option(help="The gate: a KL in nats, off, or auto (the aligner's own).")] = "auto",
    seed: Annotated[int, typer.Option(help="Fixes every draw.")] = 7,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = 128,
    model: Annotated[str | None, typer.Option(help="The proposal: a bundled or hub name, or a folder.")] = None,
    as_json: Json = False,
    temperature: Annotated[float, typer.Option(help="The final temperature, in every lane; 0 takes the best.")] = 0.7,
    temperature_p: Annotated[float, typer.Option(help="The proposal's temperature: the net it casts.")] = 1.0,
    temperature_q: Annotated[float, typer.Option(help="The aligner's temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="The nucleus' mass.")] = 0.95,
    top_k: Annotated[int, typer.Option(help="At most so many candidates; 0 sets no limit.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, what was said is said less.")] = 1.05,
    show: Annotated[int, typer.Option(help="Candidates listed a step in the JSON; 0 lists all.")] = 20,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of it, for the Inspector to open.")
    ] = None,
) -> None:
    """Answer a prompt in the base lane and in one aligned by the aligners named."""
    import threading
    from dataclasses import replace

    from ram_demo import request, views, workbench
    from ram_demo.decoding.decide import DecodingSettings
    from ram_demo.decoding.trace import Trace
    from ram_demo.evaluation.health import findings

    if show < 0:
        raise UserError(f"--show is {show}; it must be zero or more.")
    choices = tuple(request.parse_choice(text) for text in aligner or [])
    lanes = tuple((choice,) for choice in choices) if each else (choices,) if choices else ()
    asked = request.Request(
        prompt=prompt,
        lanes=lanes,
        tau=request.parse_tau(tau),
        settings=DecodingSettings(
            mode=mode,
            candidates=candidates,
            temperature=temperature,
            temperature_p=temperature_p,
            temperature_q=temperature_q,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
            max_new_tokens=max_new_tokens,
        ),
    )
    settings = from_environment()
    bench = workbench.open_workbench(replace(settings, model=model) if model is not None else settings, _progress)
    stop = threading.Event()
    traces = []
    for event in bench.run(bench.plan(asked, _progress), stop, show):
        if isinstance(event, Trace):
            traces.append(event)
        if as_json:
            records = [_closing(event)] if isinstance(event, Trace) else [step.to_json(show) for step in event]
            for record in records:
                _print_json(record)
        elif isinstance(event, Trace):
            numbers = f"{len(event.steps)} tokens, {event.tokens_per_s:.1f}/s, ended by {event.done}"
            if event.lane != request.BASE:
                numbers += f", gated {event.gated_share:.0%}, mean KL {event.mean_kl:.2f}"
            health = "".join(f"- {finding.kind}: {finding.says} {finding.advice}\n" for finding in findings(event))
            print(f"[{event.lane}] {numbers}\n{health}{event.text}\n", flush=True)
    if trace is not None:
        try:
            trace.write_text(json.dumps(views.of_traces(prompt, (), traces, {})), "utf-8")
        except OSError as error:
            raise UserError(f"{trace} cannot be written: {error.strerror}.") from error


def _closing(trace) -> dict:
    """A lane's closing object, with what is wrong with its answer."""
    from ram_demo.evaluation.health import findings

    return {**trace.summary(), "health": [finding.to_json() for finding in findings(trace)]}


@app.command()
def aligners(
    as_json: Json = False,
    add: Annotated[Path | None, typer.Option("--import", metavar="PATH", help="Add a PEFT folder or a zip.")] = None,
) -> None:
    """The registry: name, kind, base, tokenizer fingerprint, card. With --import, add one to it first."""
    from ram_demo.models.aligners import Registry
    from ram_demo.settings import SHIPPED_ALIGNERS

    settings = from_environment()
    if add is not None:
        from ram_demo import workbench

        name = workbench.open_workbench(settings, _progress).import_aligner(add)
        print(f"Imported {name}.", file=sys.stderr)
    for package in Registry(SHIPPED_ALIGNERS, settings.own_aligners).packages():
        card = package.card
        if as_json:
            _print_json(
                {
                    "name": package.name,
                    "kind": card.kind,
                    "base": card.base,
                    "tokenizer": card.tokenizer,
                    "path": str(package.folder),
                    "shipped": package.shipped,
                    "problem": package.problem,
                    "card": card.to_json(),
                }
            )
        else:
            state = f"cannot be used: {package.problem}" if package.problem else card.description
            print(f"{package.name:<16} {card.kind:<6} {card.base:<36} {card.tokenizer:<17} {state}")


@app.command()
def models(as_json: Json = False) -> None:
    """What can be loaded as a proposal without a hub, and the path of what is already on disk."""
    from ram_demo.models.sources import available

    settings = from_environment()
    for row in available(settings.cache, settings.own_models):
        if as_json:
            _print_json(row)
        else:
            print(f"{row['name']:<40} {row['origin']:<8} {row['path'] or 'converted at first use'}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in YAML.")],
    out: Annotated[Path | None, typer.Option(help="The package's folder; if not given, among your own.")] = None,
    data: Annotated[Path | None, typer.Option(help="The examples, where they are not what the recipe names.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="End after so many optimiser steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
) -> None:
    """Train an aligner from a recipe and leave its package in a folder; its run lies beside, as NAME.run."""
    from ram_demo.training import recipe as recipes
    from ram_demo.training import worker

    if max_steps is not None and max_steps < 1:
        raise UserError(f"--max-steps is {max_steps}; it must be at least 1.")
    settings = from_environment()
    read = recipes.read(recipe)
    target = out or settings.own_aligners / read.name
    run = out.with_name(f"{out.name}.run") if out else settings.runs / read.name
    examples = (data or recipe.parent / read.data).resolve()
    worker.train(read, examples, target, run, settings, max_steps, _event, resume)
    print(target)


def _event(kind: str, **event) -> None:
    """What happens in a training run, as a line for the log. Why it failed is the command's own last line."""
    if event.get("how") == "failed":
        return
    values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in event.items() if v not in (None, ""))
    print(kind.replace("_", " "), *values, sep="  ", file=sys.stderr, flush=True)


@app.command()
def measure(
    aligner: Annotated[str, typer.Argument(help="An aligner in the registry.")],
    prompts: Annotated[Path, typer.Option(help="JSONL with a prompt a line, none of them trained on.")],
    marker: Annotated[
        list[str] | None, typer.Option(help="A word that shows the wanted style; may be repeated.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Also: chosen and rejected answers in any form, none of them trained on.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Answer each prompt at so many seeds.")] = 1,
    write: Annotated[bool, typer.Option("--write", help="Put the result into the aligner's card.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what an aligner does to answers, beside the base, on prompts it was not trained on."""
    from ram_demo import workbench
    from ram_demo.evaluation import effect, preference

    bench = workbench.open_workbench(from_environment(), _progress)
    package = bench.registry.find(aligner)
    asked = effect.read_prompts(prompts)
    known = _pairs(bench.proposal.tokenizer, pairs) if pairs else []
    result = effect.measure(bench, aligner, asked, marker or [], _progress, seeds)
    if known:
        result["preference"] = preference.measure(bench, aligner, known, _progress)
    if write:
        effect.write(package, result)
    if as_json:
        _print_json(result)
    else:
        for name, value in result.items():
            print(f"{name:<28} {value}")


@app.command()
def calibrate(
    aligner: Annotated[str, typer.Argument(help="An aligner in the registry.")],
    examples: Annotated[
        Path | None, typer.Option(help="Examples that were not trained on, in any form; if not given, its own.")
    ] = None,
    write: Annotated[bool, typer.Option("--write/--no-write", help="Put what suits into the card.")] = True,
    as_json: Json = False,
) -> None:
    """Sweep strengths and gates on held-out examples, and put what suits into the aligner's card."""
    from dataclasses import asdict

    from ram_demo import workbench
    from ram_demo.evaluation import calibrate as calibration
    from ram_demo.models.aligners import write_card

    bench = workbench.open_workbench(from_environment(), _progress)
    package = bench.registry.find(aligner)
    texts = _held_out(bench.proposal.tokenizer, package.folder, examples)
    found = calibration.calibrate(bench, aligner, texts, _progress)
    if write:
        write_card(package.folder, calibration.in_card(package.card, found))
    if as_json:
        _print_json(asdict(found))
    else:
        print(calibration.as_text(found))


def _held_out(tokenizer, package: Path, examples: Path | None) -> list:
    """Texts to calibrate on: a file's, else those that the package carries, else the shipped prompts, unanswered."""
    from ram_demo.evaluation.effect import read_prompts
    from ram_demo.evaluation.likelihood import Text
    from ram_demo.models.proposal import encode_prompt
    from ram_demo.settings import HELD_OUT_PROMPTS
    from ram_demo.training.folder import HELD_OUT

    file = examples or package / HELD_OUT
    if examples is None and not file.is_file():
        return [Text(encode_prompt(tokenizer, prompt), ()) for prompt in read_prompts(HELD_OUT_PROMPTS)]
    return [Text(row.prompt, row.response) for row in _encoded(tokenizer, file)]


def _pairs(tokenizer, file: Path):
    """Raises UserError for a row without a rejected answer."""
    from ram_demo.evaluation.preference import Pair

    found = _encoded(tokenizer, file)
    if any(row.rejected is None for row in found):
        raise UserError(f"{file} has rows without a rejected answer.")
    return [Pair(row.prompt, row.response, row.rejected) for row in found]


def _encoded(tokenizer, file: Path):
    from ram_demo.training import dataset, rows

    table = rows.read(file)
    rows.require_whole(file, table)
    return dataset.encode(tokenizer, table.examples, max_tokens=1024, leave_out=True)


@votes_app.command("leaderboard")
def votes_leaderboard(
    category: Annotated[str, typer.Option(help="Only votes on prompts of this category.")] = "",
    kind: Annotated[str, typer.Option(help="Only votes of this kind: compare, pair, strength.")] = "",
    blind: Annotated[bool, typer.Option("--blind", help="Only votes that were given blind.")] = False,
    cap: Annotated[int, typer.Option(help="At most so many votes of one voter, the earliest; 0 for all.")] = 0,
    control: Annotated[str, typer.Option(help="length or style: take out what that alone is worth to voters.")] = "",
    intervals: Annotated[str, typer.Option(help="sandwich or bootstrap.")] = "sandwich",
    elo: Annotated[bool, typer.Option("--elo", help="Also Elo's rating, which depends on the votes' order.")] = False,
    as_json: Json = False,
) -> None:
    """Rate every aligner and strength against the base, which stands at 0, with 95% intervals."""
    from ram_demo import standings, votes

    settings = from_environment()
    store = votes.VoteStore(settings.database_url, settings.network_volume)
    filters = standings.Filters(category, kind, blind, cap, control, intervals, elo)
    found = standings.Leaderboard(store).standings(filters)
    if as_json:
        for record in found.to_json():
            _print_json(record)
    else:
        print(standings.as_text(found))


@votes_app.command("export")
def votes_export(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.")],
    format: Annotated[str, typer.Option(help="jsonl, csv, trl, trl-unpaired, arena or alpaca.")] = "jsonl",
    voters: Annotated[bool, typer.Option("--voters", help="Tell which votes are one person's: salted names.")] = False,
) -> None:
    """Write the votes: all of each as jsonl, without traces as csv, or what other programs read."""
    from ram_demo import votes

    if format not in votes.FORMATS:
        raise UserError(f"There is no format {format!r}; there are: {', '.join(votes.FORMATS)}.")
    settings = from_environment()
    store = votes.VoteStore(settings.database_url, settings.network_volume)
    salt = store.salt() if voters else None
    if str(file) == "-":
        votes.export(store.rows(), format, sys.stdout, salt)
        return
    try:
        with file.open("w", encoding="utf-8", newline="") as out:
            count = votes.export(store.rows(), format, out, salt)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from error
    print(f"{count} votes in {file}", file=sys.stderr)


@votes_app.command("import")
def votes_import(
    file: Annotated[Path, typer.Argument(help="The file to read.")],
    format: Annotated[str, typer.Option(help="jsonl, csv, trl or arena.")] = "jsonl",
) -> None:
    """Take in votes from elsewhere, each once; an arena's rows need model_a, model_b and winner at least."""
    from ram_demo import votes

    rows = votes.read(file, format)
    settings = from_environment()
    count = votes.VoteStore(settings.database_url, settings.network_volume).add(rows)
    print(f"{count} new votes from {file}", file=sys.stderr)


@app.command()
def bench(as_json: Json = False) -> None:
    """Measure this machine: side by side against the plain way, first token, swapping; one table of ratios."""
    from benchmarks import compare

    compare.main(from_environment(), as_json)


def _print_json(record: dict) -> None:
    print(json.dumps(record), flush=True)  # in ASCII, so that it is JSON on every terminal


def _progress(what: str, _share: float) -> None:
    print(what, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    # What a model says may hold characters that the terminal's encoding lacks; that is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        return typer.main.get_command(app).main(arguments, prog_name="ram_demo", standalone_mode=False) or 0
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
    except typer.TyperException as error:  # an option that is missing, unknown or no number
        print(" ".join(error.format_message().split()), file=sys.stderr)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())

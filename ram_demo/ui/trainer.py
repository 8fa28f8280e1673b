"""The Train tab: examples in, checked and previewed; a recipe; runs that are watched, stopped, resumed and used.

Turns gradio's events into `Jobs` and back. What a run does is on disk (`training/folder.py`): the board reads it anew
each time, so a refresh, a second tab or a restart shows the same. Trains nothing itself.
"""

import json
import secrets
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr

from ram_demo.errors import UserError
from ram_demo.evaluation.diagnosis import diagnose
from ram_demo.models.aligners import Registry
from ram_demo.settings import SHIPPED_ALIGNERS
from ram_demo.training import dataset, rows
from ram_demo.training.jobs import Job, Jobs
from ram_demo.training.presets import PRESETS
from ram_demo.training.recipe import LOSSES, Recipe, checked
from ram_demo.ui import compare, shelf
from ram_demo.ui.assets import web
from ram_demo.ui.guard import LIMITS, Guard
from ram_demo.votes import VoteStore, preferences
from ram_demo.workbench import Opening

SHIPPED_DATA = SHIPPED_ALIGNERS.parent / "data"
FILE, VOTES = "a file of yours", "the votes collected here"
WHOLE = ("epochs", "batch_size", "lora_rank", "seed", "max_tokens", "warm_up_epochs")
NUMBERS = (*WHOLE, "learning_rate", "held_out", "alpha", "dpo_beta")
FILLED = ("epochs", "batch_size", "lora_rank", "max_tokens", "learning_rate")  # what a preset says of them
SHOWN = 4  # examples that the preview shows
TAIL = 48  # tokens of a prompt that it shows, the last ones
LOSS_WORDS = {
    "ram_sft": "ram_sft: towards the examples",
    "ram_dpo": "ram_dpo: chosen over rejected",
    "sft": "sft: examples alone (baseline)",
    "dpo": "dpo: chosen over rejected (baseline)",
}


def build(
    jobs: Jobs,
    opening: Opening,
    store: VoteStore,
    registry: Registry,
    guard: Guard,
    picker: gr.HTML,
    cards: gr.HTML,
) -> gr.Radio:
    """Lay out the tab and wire its events. picker and cards: where a new aligner shows. Returns what it trains on."""
    shipped = sorted(file.stem for file in SHIPPED_DATA.glob("*.jsonl") if not file.stem.startswith("heldout"))
    if guard.is_needed:
        gr.Markdown(LIMITS, elem_id="limits")
    token = gr.Textbox(
        label="Owner's token", type="password", max_lines=1, visible=guard.is_needed, elem_id="owner-token"
    )
    with gr.Row(elem_classes="train"):
        with gr.Column(scale=5):
            gr.Markdown("### 1. Examples", elem_classes="heading")
            source = gr.Radio([FILE, *shipped, VOTES], value=FILE, show_label=False, container=False, elem_id="source")
            upload = gr.File(
                label="JSONL in the form of TRL, HH or Alpaca",
                file_types=[".jsonl", ".json"], type="filepath", height=150, elem_id="examples-file",
            )  # fmt: skip
            preview = gr.HTML(_nothing(), elem_id="preview", label="preview")
        with gr.Column(scale=4):
            gr.Markdown("### 2. Recipe", elem_classes="heading")
            name = gr.Textbox("mine", label="Name of the aligner", max_lines=1, elem_id="name")
            preset = gr.Radio(
                [(f"{key}: {words}", key) for key, (words, _) in PRESETS.items()],
                value="quick", label="Preset", elem_id="preset",
            )  # fmt: skip
            losses = [(words, key) for key, words in LOSS_WORDS.items()]
            loss = gr.Dropdown(losses, value=LOSSES[0], label="Loss", elem_id="loss")
            start = PRESETS["quick"][1]
            with gr.Accordion("Its numbers", open=False):
                with gr.Row():
                    epochs = gr.Number(start["epochs"], label="Epochs", precision=0, minimum=1)
                    batch = gr.Number(start["batch_size"], label="Batch", precision=0, minimum=1)
                    rank = gr.Number(start["lora_rank"], label="LoRA rank", precision=0, minimum=1)
                with gr.Row():
                    rate = gr.Number(start["learning_rate"], label="Learning rate", minimum=0)
                    held = gr.Number(0.1, label="Held out, share of prompts", minimum=0, maximum=0.9)
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                with gr.Row():
                    longest = gr.Number(start["max_tokens"], label="Longest example, tokens", precision=0, minimum=8)
                    alpha = gr.Number(Recipe.alpha, label="alpha of ram_sft: weight of y−", minimum=0)
                    sharpness = gr.Number(Recipe.dpo_beta, label="beta of ram_dpo and dpo", minimum=0)
                warm_up = gr.Number(
                    0, label="First tune a new proposal: passes over the examples (0: none)", precision=0, minimum=0,
                    elem_id="warm-up",
                )  # fmt: skip
            begin = gr.Button("Train", variant="primary", elem_id="train")
    gr.Markdown("### 3. Runs", elem_classes="heading")
    with gr.Row(elem_id="run-actions"):
        stop = gr.Button("Stop and keep", size="sm", elem_id="stop-run")
        resume = gr.Button("Resume", size="sm", elem_id="resume-run")
        use = gr.Button("Use in Compare", variant="primary", size="sm", elem_id="use-run")
        remove = gr.Button("Delete", size="sm", elem_id="delete-run")
    board = gr.HTML(
        json.dumps({"run": ""}),
        html_template=web("trainer.html"),
        js_on_load=web("plot.js") + web("trainer.js"),
        elem_id="board",
        label="runs",
        server_functions=[_board(jobs)],
    )

    def file_of(chosen: str, uploaded: str | None, key: str) -> Path:
        """The examples that are meant. Raises UserError."""
        if chosen == VOTES:
            guard.require_owner(key, "Training on the votes")
            return _votes(store)
        if chosen in shipped:
            return SHIPPED_DATA / f"{chosen}.jsonl"
        if not uploaded:
            raise UserError("Choose a file with examples first.")
        return Path(uploaded)

    def look(chosen: str, uploaded: str | None, share: float, key: str):
        """The preview, and the loss that such data is for."""
        if chosen == FILE and not uploaded:
            return _nothing(), gr.update()
        try:
            table = rows.read(file_of(chosen, uploaded, key))
            html = _preview(table, opening.wait().proposal.tokenizer, share)
        except UserError as error:
            return f'<p class="problem">{escape(str(error))}</p>', gr.update()
        has_pairs = all(example.rejected is not None for example in table.examples)
        return html, "ram_dpo" if has_pairs else "ram_sft"

    def train(request: gr.Request, chosen, uploaded, label, which, objective, key, *numbers):
        try:
            values = dict(zip(NUMBERS, numbers, strict=True))
            recipe = _recipe(str(label).strip(), which, objective, values, opening)
            if any(package.shipped and package.name == recipe.name for package in registry.packages()):
                raise UserError(f"{recipe.name} is an aligner that comes with the demo; choose another name.")
            name = guard.start(key, _visit(request), recipe, file_of(chosen, uploaded, key))
            job = jobs.find(name)
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        gr.Info(f"{escape(job.name)} is {job.state}.")
        return json.dumps({"run": job.name})

    def act(what, words: str):
        def handler(request: gr.Request, value: str, key: str) -> None:
            try:
                chosen = _chosen(value)
                guard.require(key, _visit(request), chosen)
                what(chosen)
            except UserError as error:
                raise gr.Error(escape(str(error)), print_exception=False) from None
            gr.Info(f"{escape(chosen)} {words}.")

        return handler

    def take(request: gr.Request, value: str, key: str):
        """Put the run's aligner among the user's, and choose it in Compare."""
        try:
            chosen = _chosen(value)
            guard.require(key, _visit(request), chosen)
            bench = opening.wait()
            bench.unload(chosen)  # an older one of this name
            jobs.use(chosen)
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        beta = registry.find(chosen).card.beta
        value = compare.picker_value(registry, {chosen: beta})
        gr.Info(f"{escape(chosen)} is chosen in Compare, at strength {beta:g}.")
        return value, shelf.cards_html(registry.packages())

    def fill(which: str):
        values = PRESETS[which][1]
        return [values.get(name, getattr(Recipe, name)) for name in FILLED]

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    source.change(lambda s: gr.update(visible=s == FILE), source, upload, **quiet)
    gr.on([source.change, upload.change, held.change], look, [source, upload, held, token], [preview, loss], **quiet)
    numbers = dict(
        zip(NUMBERS, [epochs, batch, rank, seed, longest, warm_up, rate, held, alpha, sharpness], strict=True)
    )
    preset.change(fill, preset, [numbers[name] for name in FILLED], **quiet)
    begin.click(train, [source, upload, name, preset, loss, token, *numbers.values()], board, **quiet)
    stop.click(act(jobs.stop, "is asked to stop"), [board, token], None, **quiet)
    resume.click(act(jobs.resume, "goes on"), [board, token], None, **quiet)
    remove.click(act(jobs.remove, "is deleted"), [board, token], None, **quiet)
    use.click(take, [board, token], [picker, cards], **quiet)
    return source


def _recipe(name: str, preset: str, loss: str, numbers: dict, opening: Opening) -> Recipe:
    """The page's values as a recipe. Raises UserError; a client may send anything at all."""
    if preset not in PRESETS:
        raise UserError("The page sent something that is not a recipe; reload it.")
    try:
        whole = {key: int(numbers[key]) for key in WHOLE}
        parts = {key: float(numbers[key]) for key in NUMBERS if key not in WHOLE}
    except (TypeError, ValueError, OverflowError):
        raise UserError("A number of the recipe is empty or no number.") from None
    recipe = Recipe(
        name=name,
        description=f"Trained here, from the {preset} preset.",
        data="",
        data_license="the trainer's own",
        base=opening.wait().settings.model,
        loss=loss,
        **{**PRESETS[preset][1], **whole, **parts, "lora_alpha": 2 * whole["lora_rank"]},
    )
    return checked(recipe, "The recipe")


def _votes(store: VoteStore) -> Path:
    """The votes as pairs, in a file of their own. Raises UserError if there are none that say which is better."""
    file = Path(tempfile.mkdtemp(prefix="ram-votes-")) / "votes.jsonl"
    with file.open("w") as out:
        count = sum(bool(out.write(json.dumps(pair) + "\n")) for pair in preferences(store.rows()))
    if not count:
        raise UserError("No vote here says yet which of two answers is better: compare, vote, and come back.")
    return file


def _visit(request: gr.Request) -> str:
    """This visit of the page; without one, none that has started anything."""
    return request.session_hash or secrets.token_hex()


def _chosen(value: str) -> str:
    try:
        chosen = json.loads(value)["run"]
    except (TypeError, ValueError, KeyError):
        chosen = ""
    if not isinstance(chosen, str) or not chosen:
        raise UserError("Choose a run first.")
    return chosen


# What the page is shown ---------------------------------------------------------------------------------------------


def _board(jobs: Jobs):
    def board(asked: dict) -> dict:
        """For the board, which may send one value: {run, heard, seen}. All runs, and what one of them tells that is
        new: events after the first `heard`, and its samples if they are not the `seen` ones."""
        everything = jobs.all()
        name, heard = asked.get("run"), asked.get("heard")
        chosen = next((job for job in everything if job.name == name), everything[0] if everything else None)
        events = chosen.folder.events() if chosen else []
        if chosen is None or chosen.name != name or not isinstance(heard, int) or not 0 <= heard <= len(events):
            heard = 0
        samples = chosen.folder.samples() if chosen else []
        return {
            "samples": samples if len(samples) != asked.get("seen") or not heard else None,
            "advice": [finding.to_json() for finding in diagnose(events, samples)],
            "runs": [_line(job) for job in everything],
            "run": chosen.name if chosen else "",
            "recipe": None if heard or not chosen else _as_file(chosen),
            "events": events[heard:],
            "from": heard,
            "heard": len(events),
        }

    return board


def _as_file(job: Job) -> str:
    """The run's recipe as the command line takes it."""
    config = job.folder.config()
    return replace(Recipe.from_json(config["recipe"]), data=Path(config["data"]).name).to_yaml()


def _line(job: Job) -> dict:
    return {"name": job.name, "state": job.state, "note": job.note, "usable": job.folder.result is not None}


def _nothing() -> str:
    return '<p class="empty">What is learnt, and what is only read, shows here once there are examples.</p>'


def _preview(table: rows.Table, tokenizer, share: float) -> str:
    """Counts, problems by line, and the first examples token by token: what is masked, learnt, and turned away from."""
    examples = table.examples
    try:
        training, held_out = rows.split(examples, min(max(float(share or 0), 0.0), 0.9), 0)
        found = rows.doubles(training, held_out)
        parts = f"{len(training)} to learn from, {len(held_out)} held out by prompt"
        parts += f"; {found.duplicates} repeated rows, {found.leaks} held-out answers that are also learnt"
    except UserError as error:
        parts = str(error)
    problems = "".join(f"<li>line {line}: {escape(words)}</li>" for line, words in table.problems[:8])
    more = f"<li>and {len(table.problems) - 8} more</li>" if len(table.problems) > 8 else ""
    bad = f'<div class="problem">These rows cannot be used:<ul>{problems}{more}</ul></div>' if problems else ""
    shown = "".join(_tokens(tokenizer, example) for example in examples[:SHOWN])
    kinds = {"masked": "read, not learnt", "learnt": "learnt", "rejected": "turned away from"}
    key = "".join(f'<i class="{kind}">{words}</i>' for kind, words in kinds.items())
    counted = f"<p><b>{len(examples)} examples</b> ({escape(table.form)}): {escape(parts)}.</p>"
    return f'{counted}{bad}<p class="key">{key}</p>{shown}'


def _tokens(tokenizer, example: rows.Example) -> str:
    row = dataset.encode(tokenizer, [example], 10**9)[0]

    def spans(ids: tuple[int, ...], kind: str) -> str:
        return "".join(f'<span class="{kind}">{escape(tokenizer.decode([i]))}</span>' for i in ids)

    prompt = spans(row.prompt, "masked")
    if len(row.prompt) > TAIL:  # the template's own words come first, and everybody knows them
        hidden = len(row.prompt) - TAIL
        prompt = f'<span class="masked">({hidden} tokens before) … </span>{spans(row.prompt[hidden:], "masked")}'

    rejected = f"<hr>{spans(row.rejected, 'rejected')}" if row.rejected else ""
    count = len(row.prompt) + len(row.response)
    said = prompt + spans(row.response, "learnt") + rejected
    return f'<div class="example">{said}<small>{count} tokens</small></div>'

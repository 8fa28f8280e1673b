"""The Leaderboard tab: the standings as figures and as tables, what they are asked of, and the votes to take away.

Looks every few seconds, while it is open, whether a vote or a review is new, and draws only then. Works nothing out.
"""

import tempfile
from html import escape
from pathlib import Path

import gradio as gr

from ram_demo.errors import UserError
from ram_demo.standings import Filters, Leaderboard, Standings
from ram_demo.ui import figures, tables
from ram_demo.ui.guard import Guard
from ram_demo.votes import FORMATS, export

LOOK_SECONDS = 3
ALL = "all"
CAPS = {"all votes": 0, "the first": 1, "the first 5": 5, "the first 20": 20, "the first 100": 100}
KIND_WORDS = {
    "compare": "compare: both seen with their names",
    "pair": "pair: two lanes",
    "strength": "strength: one aligner, twice",
}
CONTROL_WORDS = {"": "nothing", "length": "length", "style": "length, lists, headings, bold"}
INTERVAL_WORDS = {"sandwich": "sandwich (robust)", "bootstrap": "bootstrap"}
FORMAT_WORDS = {
    "trl": "TRL preferences",
    "trl-unpaired": "TRL, unpaired",
    "arena": "Arena columns",
    "alpaca": "AlpacaEval",
    "csv": "CSV",
    "jsonl": "JSONL, all there is",
}


def build(leaderboard: Leaderboard, guard: Guard, tabs: gr.Tabs, tab: gr.Tab) -> gr.Button:
    """Lay out the tab and wire its events. Returns the button that asks for a training on the votes."""
    with gr.Row(elem_classes="league-filters"):
        category = gr.Dropdown([ALL], value=ALL, label="Category", elem_id="league-category", min_width=140)
        kinds = [(ALL, ALL), *((words, name) for name, words in KIND_WORDS.items())]
        kind = gr.Dropdown(kinds, value=ALL, label="Kind", elem_id="league-kind", min_width=140)
        caps = gr.Dropdown(
            list(CAPS), value=next(iter(CAPS)), label="Of each voter", elem_id="league-cap", min_width=140
        )
        words = [(words, name) for name, words in INTERVAL_WORDS.items()]
        taken = [(words, name) for name, words in CONTROL_WORDS.items()]
        control = gr.Dropdown(taken, value="", label="Taken out", elem_id="league-control", min_width=140)
        intervals = gr.Dropdown(words, value="sandwich", label="Intervals", elem_id="league-intervals", min_width=140)
    with gr.Row(elem_classes="league-filters"):
        blind = gr.Checkbox(False, label="Blind votes only", elem_id="league-blind", container=False, min_width=140)
        elo = gr.Checkbox(False, label="Elo too", elem_id="league-elo", container=False, min_width=140)
    said = gr.HTML(elem_id="league-said", label="votes")
    empty = gr.HTML(tables.EMPTY, elem_id="league-empty", label="no votes")
    with gr.Column(visible=False, elem_id="league") as body:
        with gr.Row(elem_classes="league-top"):
            with gr.Column(scale=5, min_width=320):
                dots = gr.Plot(show_label=False, container=False, elem_id="league-dots")
            with gr.Column(scale=6, min_width=320):
                table = gr.HTML(elem_id="league-table", label="ratings")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                gr.Markdown("### Who beat whom", elem_classes="heading")
                matrix = gr.HTML(elem_id="league-matrix", label="who beat whom")
            with gr.Column(scale=1, min_width=320):
                gr.Markdown("### What else the votes say", elem_classes="heading")
                facts = gr.HTML(elem_id="league-facts", label="what else the votes say")
        with gr.Row() as curves:
            with gr.Column(scale=1, min_width=320):
                gr.Markdown("### Preferred to the base, by strength", elem_classes="heading")
                strength = gr.Plot(show_label=False, container=False, elem_id="league-strength")
                strength_table = gr.HTML(elem_id="league-strength-table", label="by strength")
            with gr.Column(scale=1, min_width=320):
                gr.Markdown("### Preferred to the base, by mean KL of the answer", elem_classes="heading")
                kl = gr.Plot(show_label=False, container=False, elem_id="league-kl")
                kl_table = gr.HTML(elem_id="league-kl-table", label="by KL")
    gr.Markdown("### Take the votes along", elem_classes="heading")
    token = gr.Textbox(
        label="Owner's token, to take the votes of a page that others reach",
        type="password", max_lines=1, visible=guard.is_needed, elem_id="league-token",
    )  # fmt: skip
    with gr.Row(elem_classes="league-take"):
        buttons = {name: gr.Button(FORMAT_WORDS[name], size="sm", min_width=110) for name in FORMATS}
        train = gr.Button("Train on these", variant="primary", size="sm", min_width=110, elem_id="league-train")
    file = gr.DownloadButton(visible="hidden", elem_id="league-file")
    seen = gr.State(None)
    clock = gr.Timer(LOOK_SECONDS, active=False)

    asked = [category, kind, caps, control, intervals, blind, elo]
    drawn = [category, said, empty, body, dots, table, matrix, facts, curves, strength, strength_table, kl, kl_table]

    def look(last, *values):
        """The standings, if they are not the ones that this page shows."""
        try:
            filters = _filters(*values)
            now = (leaderboard.version(), filters)
            if now == last:
                return {seen: gr.skip()}
            found = leaderboard.standings(filters)
        except UserError as error:
            words = f'<p class="league-said problem" role="alert">{escape(str(error))}</p>'
            return {seen: None, said: words}  # so that all is drawn anew once the store answers again
        return {seen: now, **dict(zip(drawn, _drawn(found), strict=True))}

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    triggers = [clock.tick, tab.select, *(filter.change for filter in asked)]
    gr.on(triggers, look, [seen, *asked], [seen, *drawn], trigger_mode="always_last", **quiet)

    def watch(event: gr.SelectData) -> gr.Timer:
        """Nobody looks for news where nobody sees them."""
        return gr.Timer(active=event.value == tab.label)

    tabs.select(watch, None, clock, **quiet)

    def take(format: str):
        def handler(key: str) -> str:
            try:
                guard.require_owner(key, "Taking the votes along")
                return str(_written(leaderboard, format))
            except UserError as error:
                raise gr.Error(escape(str(error)), print_exception=False) from None

        return handler

    for name, button in buttons.items():
        taken = button.click(take(name), token, file, **quiet)
        taken.success(None, js="() => document.querySelector('#league-file').click()", api_visibility="private")
    return train


def _filters(category, kind, caps, control, intervals, blind, elo) -> Filters:
    """The page's values as filters. Raises UserError; a client may send anything at all."""
    if not all(isinstance(value, str) for value in (category, kind, caps)) or caps not in CAPS:
        raise UserError("The page sent something that is not a filter; reload it.")
    return Filters(
        category="" if category == ALL else category,
        kind="" if kind == ALL else kind,
        blind_only=bool(blind),
        most=CAPS[caps],
        control=str(control),
        intervals=str(intervals),
        elo=bool(elo),
    )


def _drawn(found: Standings) -> list:
    """What each component of the tab shows, in the order of `drawn`."""
    categories = gr.update(choices=[ALL, *found.categories])
    said = tables.summary(found)
    if not found.votes:
        none = gr.update(value=tables.empty(found), visible=True)
        return [categories, said, none, gr.update(visible=False), *[gr.skip()] * 9]
    return [
        categories,
        said,
        gr.update(visible=False),
        gr.update(visible=True),
        figures.ratings(found),
        tables.ratings(found),
        tables.matrix(found),
        tables.facts(found),
        gr.update(visible=bool(found.by_strength or found.by_kl)),
        figures.against_base(found.by_strength, found, "strength"),
        tables.curves(found.by_strength, "Strength"),
        figures.against_base(found.by_kl, found, "mean KL of the answer, nats"),
        tables.curves(found.by_kl, "Mean KL, nats"),
    ]


def _written(leaderboard: Leaderboard, format: str) -> Path:
    """All votes in a file of their own. Raises UserError where there are none."""
    if not leaderboard.store.count():
        raise UserError("There are no votes yet.")
    endings = {"csv": "csv", "alpaca": "json"}
    file = Path(tempfile.mkdtemp(prefix="ram-votes-")) / f"votes-{format}.{endings.get(format, 'jsonl')}"
    with file.open("w", encoding="utf-8", newline="") as out:
        export(leaderboard.store.rows(), format, out)
    return file

"""The Compare tab: prompt and choices in, panes that stream, a vote out. Turns gradio's events into `Runs` and back.

The panes fetch what is new by themselves (`tokens.payload`, at the page's own pace); the event that started a run only
waits, in no thread, for its end.

Decides nothing: requests are checked in `request.py`, who may vote in `runs.py`; each handler asks as its own session.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from html import escape

import gradio as gr

from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.monitor import PAPER_TAU
from ram_demo.errors import UserError
from ram_demo.models.aligners import Registry
from ram_demo.request import OWN_MODE, Choice, Request, parse_tau
from ram_demo.runs import Runs
from ram_demo.ui import tokens
from ram_demo.ui.assets import web

EXAMPLES = [
    "Why is the sky blue?",
    "How do I boil an egg?",
    "What is a volcano?",
    "Explain what the internet is to a five-year-old.",
    "I can't sleep. How can I fall asleep faster?",
    "Write a thank-you note to a friend who hosted me for the weekend.",
]
LOOK_SECONDS = 0.1  # how often the event that waits for a run's end looks
SIGN_SECONDS = 2  # and how often it tells the page something, to notice one that was closed
LONGEST = 1024
GATES = {
    "auto (the aligner's own)": "auto",
    f"{PAPER_TAU:g} (the paper's)": str(PAPER_TAU),
    "off": "off",
    "a value": "",
}
MODE_WORDS = {
    OWN_MODE: "auto (the aligner's own)",
    "product": "product: P times Q, exact",
    "sis": "sis: n draws of P, weighed by Q",
    "par": "par: Q alone on P's nucleus",
    "ratio": "ratio: P times Q over Q's own base",
}
LAYOUTS = {"a pane for each": True, "composed in one pane": False}
VOTES = {"A better": "a", "B better": "b", "Tie": "tie", "Both bad": "both_bad"}
LETTERS = "ABCDEFGHIJ"  # of the panes, in the order in which they stand; stage.js has the same
NO_VOTE = "Vote once both answers have ended."
LINKED = 'if (linked()) showTab("Inspect");'  # who follows a link to the Inspector is led there from the first tab
IDLE = tokens.as_text({"run": None, "note": ""})
DEFAULTS = DecodingSettings()


def picker_value(registry: Registry, chosen: dict | None = None) -> dict:
    """The aligners there are, for the picker. The first is chosen at the start, so that Run shows something at once."""
    options = [
        {"name": p.name, "description": p.card.description, "beta": p.card.beta, "problem": p.problem}
        for p in registry.packages()
    ]
    if chosen is None:
        usable = [option for option in options if not option["problem"]]
        chosen = {option["name"]: option["beta"] for option in usable[:1]}
    return {"options": options, "chosen": chosen}


def build(runs: Runs, registry: Registry) -> gr.HTML:
    """Lay out the tab and wire its events. Returns the picker, for those who change which aligners there are."""
    with gr.Row(equal_height=True, elem_classes="ask"):
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, max_lines=8, scale=8, elem_id="prompt")
        with gr.Column(scale=1, min_width=150, elem_classes="actions"):
            run = gr.Button("Run", variant="primary", elem_id="run")
            stop = gr.Button("Stop", interactive=False, elem_id="stop")
    gr.Examples(EXAMPLES, prompt, label="Examples", elem_id="examples")
    picker = gr.HTML(
        picker_value(registry),
        html_template=web("picker.html"),
        js_on_load=web("picker.js"),
        elem_id="picker",
        label="aligners",
    )
    layout = gr.Radio(
        list(LAYOUTS),
        value=next(iter(LAYOUTS)),
        label="Several aligners: ",
        show_label=False,
        container=False,
        visible=False,
        elem_id="layout",
    )
    with gr.Row(elem_classes="knobs", equal_height=True):
        mode = gr.Dropdown(
            [(words, m) for m, words in MODE_WORDS.items()], value=OWN_MODE, label="Mode", elem_id="mode"
        )
        gate = gr.Dropdown(list(GATES), value=next(iter(GATES)), label="Gate (KL threshold)", elem_id="gate")
        tau = gr.Number(1.0, label="Threshold, nats", minimum=0, step=0.1, visible=False, elem_id="tau")
        length = gr.Slider(8, LONGEST, value=DEFAULTS.max_new_tokens, step=8, label="Length, tokens", elem_id="length")
        with gr.Row(elem_classes="seed", equal_height=True):
            seed = gr.Number(DEFAULTS.seed, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=90)
            new_seed = gr.Button("New", size="sm", elem_id="new-seed", min_width=56, scale=0)
    with gr.Accordion("Sampling settings", open=False, elem_id="sampling"):
        gr.Markdown(
            "T_P shapes the net that the proposal casts, T_Q the aligner's opinion of what is in it, and T sharpens "
            "the choice, in every lane alike."
        )
        with gr.Row():
            temperature = gr.Slider(0, 2, DEFAULTS.temperature, step=0.05, label="T, final temperature")
            temperature_p = gr.Slider(0.1, 2, DEFAULTS.temperature_p, step=0.05, label="T_P, proposal")
            temperature_q = gr.Slider(0.1, 2, DEFAULTS.temperature_q, step=0.05, label="T_Q, aligner")
        with gr.Row():
            top_p = gr.Slider(0.05, 1, DEFAULTS.top_p, step=0.01, label="top-p")
            top_k = gr.Number(DEFAULTS.top_k, label="top-k (0: no limit)", precision=0, minimum=0)
            penalty = gr.Slider(1, 2, DEFAULTS.repetition_penalty, step=0.01, label="Repetition penalty")
            draws = gr.Number(DEFAULTS.candidates, label="n, draws of sis", precision=0, minimum=1)

    def whats_new(asked: dict) -> dict:
        """For the stage, which may send one value: {run, heard}."""
        return _news(runs, asked["run"], asked["heard"])

    stage = gr.HTML(
        IDLE,
        html_template=web("stage.html"),
        js_on_load="".join(map(web, ("nodes.js", "doors.js", "colours.js", "plot.js", "stage.js"))) + LINKED,
        elem_id="stage",
        label="stage",
        server_functions=[whats_new],
    )
    with gr.Column(elem_classes="ballot"):
        with gr.Row(equal_height=True):
            said = gr.Markdown(NO_VOTE, elem_id="said")
            pair = gr.Dropdown([], label="Judge", visible=False, elem_id="pair", scale=0, min_width=240)
        with gr.Row(elem_id="votes"):
            buttons = [gr.Button(words, interactive=False, min_width=90) for words in VOTES]
        again = gr.Button("Run again with the same seed", size="sm", interactive=False, elem_id="again")
    shown = gr.State("")  # id of the run on the stage
    last_seed = gr.State(DEFAULTS.seed)

    ballot = [*buttons, pair, said]
    knobs = [layout, mode, gate, tau, length]
    sampling = [temperature, temperature_p, temperature_q, top_p, top_k, penalty, draws]
    outputs = [stage, run, stop, again, shown, last_seed, *ballot]

    async def compare(
        prompt,
        picked,
        seed,
        layout,
        mode,
        gate,
        tau,
        length,
        t,
        t_p,
        t_q,
        top_p,
        top_k,
        penalty,
        n,
        request: gr.Request,
    ) -> AsyncIterator[dict]:
        """Run the base and the aligned lanes. /news tells what they decide, from the run's id that comes first."""
        try:
            asked = _request(
                prompt, picked, layout, mode, gate, tau, (t, t_p, t_q, top_p, top_k, penalty, n, seed, length)
            )
            going = runs.start(asked, _session(request))
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        yield {
            stage: tokens.as_text({"run": going.id}),
            run: gr.update(interactive=False),
            stop: gr.update(interactive=True),
            again: gr.update(interactive=False),
            shown: going.id,
            last_seed: asked.settings.seed,
            **_closed(buttons, pair, said, NO_VOTE),
        }
        looked = 0
        while not going.ended:
            await asyncio.sleep(LOOK_SECONDS)
            looked += 1
            if looked % round(SIGN_SECONDS / LOOK_SECONDS) == 0:
                going.listen()
                yield {shown: going.id}
        ending = {
            run: gr.update(interactive=True),
            stop: gr.update(interactive=False),
            again: gr.update(interactive=True),
        }
        last = going.news(0, wait=0)
        if last.state == "failed":
            yield ending
            raise gr.Error(escape(last.note), print_exception=False)
        lanes = [lane for lane in going.plan.record["lanes"] if lane in going.traces] if going.plan else []
        if len(lanes) > 1:
            titled = [f"{letter} ({lane})" for letter, lane in zip(LETTERS, lanes, strict=False)]
            pairs = [(f"{titled[i]} or {titled[j]}", f"{i}:{j}") for j in range(len(lanes)) for i in range(j)]
            ending |= {b: gr.update(value=words, interactive=True) for b, words in zip(buttons, VOTES, strict=True)}
            ending |= {
                pair: gr.update(choices=pairs, value=pairs[0][1], visible=len(pairs) > 1),
                said: "**Which answer is better?** Your vote is kept with the seed, the settings and every weight.",
            }
        else:
            ending |= {said: "Choose an aligner to have two answers to vote on."}
        yield ending

    def news(run_id: str, heard: int) -> dict:
        """What a run has decided after the first `heard` events, and the number to ask with next time."""
        try:
            return _news(runs, run_id, heard)
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None

    def vote(run_id: str, pair_text: str, choice: str, request: gr.Request) -> str:
        """Keep a vote: a, b, tie or both_bad, on the two answers of a run (pair "0:1" is the base and the first)."""
        try:
            going = runs.find(run_id)
            lanes = list(going.traces and going.plan.record["lanes"])
            first, second = _pair(pair_text, lanes)
            count = runs.vote(run_id, _session(request), (first, second), choice)
        except UserError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None
        words = next(w for w, c in VOTES.items() if c == choice)
        return f"**Saved: {words}** ({first} against {second}). {count} votes so far."

    def cast(choice: str):
        def handler(run_id: str, pair_text: str, request: gr.Request):
            saved = vote(run_id, pair_text, choice, request)
            return [gr.update(interactive=False)] * len(buttons) + [gr.update(), saved]

        return handler

    def halt(request: gr.Request) -> None:
        """Stop what this session is running; its answers so far stay."""
        runs.stop(_session(request))

    def reopen(run_id: str, pair_text: str):
        """Another pair of the same run may be voted on too; the first two buttons bear its letters."""
        words = [f"{LETTERS[int(n)]} better" for n in pair_text.split(":")] + list(VOTES)[2:]
        return [gr.update(value=word, interactive=bool(run_id)) for word in words]

    asked = [prompt, picker, seed, *knobs, *sampling]
    # Who may run is decided in the loop, which tells those who wait; here nobody waits.
    turn = {"concurrency_limit": None, "show_progress": "hidden", "trigger_mode": "once"}
    gr.on([run.click, prompt.submit], compare, asked, outputs, api_name="compare", **turn)
    again.click(compare, [prompt, picker, last_seed, *knobs, *sampling], outputs, api_visibility="private", **turn)
    # What answers at once does so apart from the queue: a page whose queued events end just as another begins may miss
    # what that one says.
    quick = {"queue": False, "show_progress": "hidden"}
    again.click(lambda s: s, last_seed, seed, api_visibility="private", **quick)
    stop.click(halt, None, None, api_name="stop", **quick)
    gate.change(lambda g: gr.update(visible=GATES[g] == ""), gate, tau, api_visibility="private", **quick)
    picker.change(_layout_choice, picker, layout, api_visibility="private", **quick)
    new_seed.click(lambda: random.randrange(2**31), None, seed, api_visibility="private", **quick)
    for button, choice in zip(buttons, VOTES.values(), strict=True):
        button.click(
            cast(choice),
            [shown, pair],
            ballot,
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )
    pair.input(reopen, [shown, pair], buttons, api_visibility="private", **quick)
    gr.api(vote, api_name="vote", concurrency_limit=None)
    gr.api(news, api_name="news", concurrency_limit=None)
    return picker


def _request(prompt, picked, layout, mode, gate, tau, numbers) -> Request:
    """The page's values as a checked request. Raises UserError; a client may send anything at all."""
    chosen = picked.get("chosen", {}) if isinstance(picked, dict) else None
    if not isinstance(chosen, dict) or not isinstance(prompt, str) or gate not in GATES or layout not in LAYOUTS:
        raise UserError("The page sent something that is not a request; reload it.")
    try:
        choices = tuple(Choice(str(name), float(strength)) for name, strength in chosen.items())
        order = ("temperature", "temperature_p", "temperature_q", "top_p", "top_k", "repetition_penalty", "candidates")
        values = dict(zip((*order, "seed", "max_new_tokens"), map(float, numbers), strict=True))
        values = {name: int(value) if value.is_integer() else value for name, value in values.items()}
    except (TypeError, ValueError, OverflowError):
        raise UserError("A setting is empty or not a number.") from None
    if values["max_new_tokens"] > LONGEST:
        raise UserError(f"The length is {values['max_new_tokens']:g}; on this page it is at most {LONGEST} tokens.")
    settings = DecodingSettings(mode=mode, **values)
    lanes = tuple((choice,) for choice in choices) if LAYOUTS[layout] else (choices,) if choices else ()
    return Request(prompt=prompt, lanes=lanes, tau=parse_tau(GATES[gate] or str(tau)), settings=settings)


def _layout_choice(picked: dict):
    """How several aligners are laid out is asked only where there are several."""
    return gr.update(visible=isinstance(picked, dict) and len(picked.get("chosen") or {}) > 1)


def _session(request: gr.Request) -> str:
    """The browser session behind an event: drawn at random in each page, and shown to nobody else."""
    return request.session_hash or ""


def _closed(buttons: list, pair: gr.Dropdown, said: gr.Markdown, words: str) -> dict:
    """The ballot while there is nothing to vote on."""
    return {**dict.fromkeys(buttons, gr.update(interactive=False)), pair: gr.update(visible=False), said: words}


def _pair(text: str | None, lanes: list[str]) -> tuple[str, str]:
    """ "0:2" as the names of the first and third lane; nothing stands for the first two."""
    try:
        first, second = (int(n) for n in (text or "0:1").split(":"))
        if min(first, second) < 0:
            raise ValueError
        return lanes[first], lanes[second]
    except (ValueError, IndexError):
        raise UserError("The vote must name two of the answers shown.") from None


def _news(runs: Runs, run_id: str, heard: int) -> dict:
    if type(heard) is not int or heard < 0:
        raise UserError("What was heard is a number of events, zero or more.")
    return tokens.payload(runs.find(run_id), heard)

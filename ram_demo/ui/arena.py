"""The Arena tab: what `arena.js` may ask of a battle, and what it is told. Turns JSON into `Arena` and back.

Every question carries the session that the page drew for itself, and each is answered for that session alone. Before
the vote an answer holds texts and nothing else that depends on a side; `_told` is the one place that says otherwise.
"""

from collections.abc import Callable
from functools import wraps

import gradio as gr

from ram_demo.arena import Arena
from ram_demo.decoding.record import from_record
from ram_demo.decoding.trace import Trace, first_difference
from ram_demo.errors import StorageError, UserError
from ram_demo.exchange import News
from ram_demo.replay import Standing
from ram_demo.ui import tokens
from ram_demo.ui.assets import web
from ram_demo.views import lane_head
from ram_demo.votes import LONGEST_COMMENT, REASONS, SIDES, Ballot, Battle, Response, Turn

# What one may start from, by category.
EXAMPLES = {
    "Why is the sky blue?": "explain",
    "What is the difference between weather and climate?": "explain",
    "How do I boil an egg?": "how to",
    "How do I get a coffee stain out of a shirt?": "how to",
    "I can't sleep. How can I fall asleep faster?": "advice",
    "Write a thank-you note to a friend who hosted me for the weekend.": "write",
}
KINDS = {
    "pair": "Both sides had the same seed, so what differs is what weighed the tokens.",
    "strength": "One aligner at two strengths, with the same seed.",
    "placebo": "A placebo: the same on both sides, with two seeds. Such rounds measure how much is chance or a liking "
    "for one side, and are left out of the ratings.",
}
DONE = {"eos": "ended by itself", "length": "cut at the length", "stopped": "stopped"}


def build(arena: Arena) -> None:
    """Lay out the tab. All that happens in it is between `arena.js` and the functions that it may call."""
    # The stage that shows a revealed trace is Compare's own, in a scope of its own.
    shared = "".join(map(web, ("nodes.js", "session.js", "doors.js", "colours.js", "plot.js")))
    stage = f"const openStage = (server, props, watch) => {{{web('stage.js')}}};"
    gr.HTML(
        tokens.as_text({"examples": list(EXAMPLES), "reasons": REASONS, "longest": LONGEST_COMMENT}),
        html_template=web("arena.html") + web("stage.html"),
        js_on_load=shared + stage + web("arena.js"),
        elem_id="arena",
        label="arena",
        server_functions=questions(arena),
    )


def questions(arena: Arena) -> list[Callable[[dict], dict]]:
    """What the page may ask, each with one value that holds the session and, once there is one, the battle."""

    def start(asked: dict) -> dict:
        prompt = text_of(asked, "prompt")
        return {"battle": arena.start(prompt, text_of(asked, "session"), EXAMPLES.get(prompt.strip(), ""))}

    def go_on(asked: dict) -> dict:
        return {"turn": arena.go_on(*_whose(asked), text_of(asked, "prompt"))}

    def news(asked: dict) -> dict:
        heard = asked.get("heard")
        if type(heard) is not int or heard < 0:
            raise UserError("What was heard is a number of tokens, zero or more.")
        told = arena.news(*_whose(asked), heard)
        return {**_seen(told), "note": arena.give_up_turn(*_whose(asked)) if told.state == "failed" else _queue(told)}

    def stop(asked: dict) -> dict:
        arena.stop(text_of(asked, "session"))
        return {}

    def vote(asked: dict) -> dict:
        arena.vote(*_whose(asked), text_of(asked, "choice"), _ballot(asked), asked.get("retried") is True)
        return {}

    def reveal(asked: dict) -> dict:
        return _told(arena.reveal(*_whose(asked)))

    def replay(asked: dict) -> dict:
        return standing_for_page(arena.replay(*_whose(asked)))

    return [in_words(question) for question in (start, go_on, news, stop, vote, reveal, replay)]


def in_words(question: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """A mistake is an answer too: one sentence, and whether asking again may help."""

    @wraps(question)
    def answer(asked: dict) -> dict:
        try:
            if not isinstance(asked, dict):
                raise UserError("The page sent something that is no question; reload it.")
            return question(asked)
        except UserError as error:
            return {"error": str(error), "again": isinstance(error, StorageError)}

    return answer


def text_of(asked: dict, name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise UserError(f"The page sent no {name}; reload it.")
    return value


def _whose(asked: dict) -> tuple[str, str]:
    return text_of(asked, "battle"), text_of(asked, "session")


def _ballot(asked: dict) -> Ballot:
    """Raises UserError for what is no ballot; what it may say is checked where it is kept."""
    reasons, span = asked.get("reasons") or [], asked.get("span")
    fits = isinstance(reasons, list) and all(isinstance(reason, str) for reason in reasons)
    if span is not None:
        fits = fits and isinstance(span, list) and [type(part) for part in span] == [str, int, int]
    if not fits:
        raise UserError("The page sent something that is no vote; reload it.")
    return Ballot(tuple(reasons), text_of({"comment": "", **asked}, "comment"), span and tuple(span))


# Before the vote -----------------------------------------------------------------------------------------------------


def _seen(news: News) -> dict:
    return {"state": news.state, "heard": news.heard, "a": news.a, "b": news.b}


def _queue(news: News) -> str:
    if news.ahead is None:
        return ""
    ahead = "One comparison is" if news.ahead.ahead == 1 else f"{news.ahead.ahead} comparisons are"
    return f"{ahead} ahead of yours; it begins within about {max(1, round(news.ahead.seconds))} s."


# After it ------------------------------------------------------------------------------------------------------------


def _told(battle: Battle) -> dict:
    """All of a revealed battle: who stood where, each turn with both traces, and where they first part."""
    return {
        "words": KINDS.get(battle.kind, ""),
        "proposal": battle.proposal,
        "turns": [_turn(turn) for turn in battle.turns],
    }


def _side(response: Response) -> dict:
    head = lane_head(response.trace["settings"], response.lane)
    return {
        **head,
        "tokens": response.tokens,
        "done": DONE[response.done],
        "gated": response.gated_share,
        "kl": response.mean_kl,
        "seed": response.trace["settings"]["seed"],
    }


def _turn(turn: Turn) -> dict:
    """In the form that the stage reads, its lanes named by their sides."""
    responses = {side: getattr(turn, side) for side in SIDES}
    traces = {side: from_record(response.trace) for side, response in responses.items()}
    heads = [{**_side(response), "name": side} for side, response in responses.items()]
    return {
        "prompt": turn.prompt,
        "parting": _parting(traces["a"], traces["b"]),
        "state": "ended",
        "note": "",
        "lanes": heads,
        "steps": [{**tokens.step_for_page(s), "lane": side} for side, trace in traces.items() for s in trace.steps],
        "traces": [{**tokens.trace_for_page(trace), "lane": side} for side, trace in traces.items()],
        "heard": 1,
    }


def _parting(a: Trace, b: Trace) -> dict | None:
    """Where two answers first differ: the token, counted from 1, and what each said there."""
    at = first_difference([step.token for step in a.steps], [step.token for step in b.steps])
    return None if at is None else {"at": at + 1, "a": a.steps[at].text, "b": b.steps[at].text}


def standing_for_page(standing: Standing) -> dict:
    """How far a replay is, in words once it is over."""
    return {
        "over": standing.over or bool(standing.problem),
        "same": standing.is_same,
        "done": standing.done,
        "of": standing.of,
        "words": standing.words(),
    }

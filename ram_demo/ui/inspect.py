"""The Inspector's tab: what `inspect.js` may ask, and what it is told. Turns JSON into `Inspector` and back.

Every question carries the session that the page drew for itself. What may be opened: a comparison by its id, which is a
secret of the page that made it; a battle by the session that fought it, once it is revealed; any battle by the owner; a
file by whoever has it. Decides nothing about tokens.
"""

import base64
import hashlib
from collections.abc import Callable
from functools import cache

import gradio as gr

from ram_demo.arena import Arena
from ram_demo.errors import UserError
from ram_demo.inspection import Inspector
from ram_demo.ui import tokens
from ram_demo.ui.arena import in_words, standing_for_page, text_of
from ram_demo.ui.assets import web
from ram_demo.ui.guard import Guard
from ram_demo.votes import VoteRow

SHOWN = 10  # votes at a time
LONGEST_NAME = 200  # characters of a file's name
OPENING_VOTES = "Opening past votes"
CHOICES = {"a": "A was better", "b": "B was better", "tie": "tie", "both_bad": "both bad"}
SHARED = ("nodes.js", "colours.js", "plot.js", "trace.js", "whatif.js")
PARTS = ("text", "step", "time", "try", "tree", "share")
SCRIPTS = (*SHARED, *(f"inspect-{part}.js" for part in PARTS), "inspect.js")


def build(inspector: Inspector, arena: Arena, guard: Guard) -> None:
    """Lay out the tab. All that happens in it is between `inspect.js` and the functions that it may call."""
    gr.HTML(
        tokens.as_text({"asks": guard.is_needed, "owner": not guard.is_needed or bool(guard.settings.owner_token)}),
        html_template=web("inspect.html"),
        js_on_load="".join(map(web, ("session.js", "doors.js", *SCRIPTS))),
        elem_id="inspect",
        label="inspector",
        server_functions=questions(inspector, arena, guard),
    )


def questions(inspector: Inspector, arena: Arena, guard: Guard) -> list[Callable[[dict], dict]]:
    """What the page may ask, each with one value that holds the session."""

    def open(asked: dict) -> dict:
        """The view of a {run}, of a {battle} that the session fought, of any with the owner's {token}, or in a file's
        {text}, with its {name}."""
        if "text" in asked:
            return {"view": inspector.of_file(text_of(asked, "text"), text_of(asked, "name")[:LONGEST_NAME])}
        if "run" in asked:
            return {"view": inspector.of_run(text_of(asked, "run"))}
        battle = text_of(asked, "battle")
        if "token" not in asked:
            return {"view": inspector.of_battle(arena.reveal(battle, text_of(asked, "session")), battle)}
        guard.require_owner(text_of(asked, "token"), OPENING_VOTES)
        return {"view": inspector.of_battle(arena.store.battle(battle), battle)}

    def votes(asked: dict) -> dict:
        """The votes after the first `skip` newest ones, for the owner."""
        guard.require_owner(text_of(asked, "token"), OPENING_VOTES)
        skip = asked.get("skip")
        if type(skip) is not int or skip < 0:
            raise UserError("What is skipped is a number of votes, zero or more.")
        return {"votes": [_vote(row) for row in arena.store.newest(SHOWN, skip)], "of": arena.store.count()}

    def begin(asked: dict) -> dict:
        return {"run": inspector.begin(asked, text_of(asked, "session")).id}

    def part(asked: dict) -> dict:
        heard = asked.get("heard")
        if type(heard) is not int or heard < 0:
            raise UserError("What was heard is a number of events, zero or more.")
        return inspector.part(text_of(asked, "run"), heard)

    def stop(asked: dict) -> dict:
        inspector.runs.stop(text_of(asked, "session"))
        return {}

    def vote(asked: dict) -> dict:
        run = inspector.runs.find(text_of(asked, "run"))
        lanes = list(run.traces and run.plan.record["lanes"])
        if len(lanes) < 2:
            raise UserError("There are no two answers to vote on.")
        inspector.runs.vote(run.id, text_of(asked, "session"), (lanes[0], lanes[1]), text_of(asked, "choice"))
        return {}

    def replay(asked: dict) -> dict:
        return {"replay": inspector.replay(asked.get("view"), text_of(asked, "session"))}

    def follow(asked: dict) -> dict:
        return {"replay": inspector.follow(text_of(asked, "link"), text_of(asked, "session"))}

    def standing(asked: dict) -> dict:
        return standing_for_page(inspector.standing(text_of(asked, "replay"), text_of(asked, "session")))

    def replayed(asked: dict) -> dict:
        return {"view": inspector.of_replay(text_of(asked, "replay"), text_of(asked, "session"))}

    def link(asked: dict) -> dict:
        return {"link": inspector.link(asked.get("view"))}

    def shell(asked: dict) -> dict:
        return {"page": saved_page()}

    every = (open, votes, begin, part, stop, vote, replay, follow, standing, replayed, link, shell)
    return [in_words(question) for question in every]


def _vote(row: VoteRow) -> dict:
    last = row.battle.turns[-1]
    labels = f"A: {last.a.label}, B: {last.b.label}"
    return {
        "battle": row.battle_id,
        "prompt": last.prompt[:200],
        "when": f"{row.created_at:%Y-%m-%d %H:%M} UTC",
        "words": f"{CHOICES[row.choice]} · {labels}",
    }


@cache
def saved_page() -> str:
    """The Inspector as one file that needs no server and reaches no network; DATA is where the page puts what is open.
    Nothing but its own script and style is let in: both are known by what they hash to."""
    script = "(() => {\n" + "".join(map(web, ("saved.js", *SCRIPTS))) + "})();\n"
    style = "".join(map(web, ("saved.css", "colours.css", "inspect.css")))
    page = web("saved.html")
    for name, text in (("SCRIPT", script), ("STYLE", style), ("BODY", web("inspect.html"))):
        hashed = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        page = page.replace(f"{name}-HASH", f"sha256-{hashed}").replace(f">{name}<", f">{text}<")
    return page

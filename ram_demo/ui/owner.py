"""The owner's page: the newest votes whole, and the owner's word on which of them count. Nothing here deletes.

Every question carries the token, and on a page that others reach none is answered without it, whatever the page shows.
Knows the store and the guard; decides nothing about ratings.
"""

from collections.abc import Callable

import gradio as gr

from ram_demo.errors import UserError
from ram_demo.ui import tokens
from ram_demo.ui.arena import in_words, text_of
from ram_demo.ui.assets import web
from ram_demo.ui.guard import Guard
from ram_demo.votes import SIDES, VoteRow, VoteStore

SHOWN = 10  # votes at a time
LONGEST_WHY = 300  # characters
WHAT = "Reviewing the votes"


def build(store: VoteStore, guard: Guard) -> None:
    """Lay out the accordion where there is an owner: this machine, or whoever has the token."""
    if guard.is_needed and not guard.settings.owner_token:
        return
    with gr.Accordion("For the owner: review the votes", open=False, elem_id="owner-room"):
        gr.HTML(
            tokens.as_text({"asks": guard.is_needed, "shown": SHOWN, "longest": LONGEST_WHY}),
            html_template=web("owner.html"),
            js_on_load=web("nodes.js") + web("doors.js") + web("owner.js"),
            elem_id="owner",
            label="owner",
            server_functions=questions(store, guard),
        )


def questions(store: VoteStore, guard: Guard) -> list[Callable[[dict], dict]]:
    """What the page may ask, each with one value that holds the token."""

    def votes(asked: dict) -> dict:
        """The votes after the first `skip` newest ones."""
        guard.require_owner(text_of(asked, "token"), WHAT)
        skip = asked.get("skip")
        if type(skip) is not int or skip < 0:
            raise UserError("What is skipped is a number of votes, zero or more.")
        return {"votes": [_for_page(row) for row in store.newest(SHOWN, skip)], "of": store.count()}

    def review(asked: dict) -> dict:
        guard.require_owner(text_of(asked, "token"), WHAT)
        why, counts = text_of(asked, "why").strip(), asked.get("counts")
        if not why or len(why) > LONGEST_WHY:
            raise UserError(f"Say why, in {LONGEST_WHY} characters at most: it is kept for those who ask later.")
        if type(counts) is not bool:
            raise UserError("The page sent something that is no review; reload it.")
        store.review(text_of(asked, "vote"), counts, why)
        return {}

    return [in_words(votes), in_words(review)]


def _for_page(row: VoteRow) -> dict:
    last = row.battle.turns[-1]
    return {
        "id": row.id,
        "battle": row.battle_id,
        "at": f"{row.created_at:%Y-%m-%d %H:%M} UTC",
        "kind": row.battle.kind,
        "turns": len(row.battle.turns),
        "prompt": last.prompt,
        "choice": row.choice,
        "reasons": row.ballot.reasons,
        "comment": row.ballot.comment,
        "span": row.ballot.span,
        "seconds": row.ballot.reading_seconds,
        "counts": row.counts,
        "why": row.why,
        **{side: {"label": getattr(last, side).label, "text": getattr(last, side).text} for side in SIDES},
    }

"""The Inspector's service: what may be opened, branches that go on from a token, replays. JSON into runs and back.

What comes in may have been made by anybody; it is checked like any request. Who may open what is decided by whoever
calls (a run's id and a battle's session are secrets of their own). Knows nothing of gradio.
"""

import base64
import binascii
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import groupby
from uuid import uuid4

from ram_demo import views
from ram_demo.decoding.decide import DecodingSettings
from ram_demo.decoding.record import check_settings, columns, seats
from ram_demo.decoding.trace import Step
from ram_demo.errors import UserError
from ram_demo.replay import Asked, Replay, Standing, asked_of
from ram_demo.request import Choice, Request
from ram_demo.runs import Run, Runs
from ram_demo.votes import Battle

MOST_NEW = 1024  # tokens that a branch may add
ROOM = 64  # tokens that it may add at least, if the answer it goes on from has used up its length
LONGEST_LINK = 60_000  # characters
KEPT = 50  # replays at hand
READERS = 2  # files that are read at once: that takes some ten times their size


class Inspector:
    """Everything that is open to be looked into, beside the runs."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self._replays: OrderedDict[str, tuple[str, Replay]] = OrderedDict()
        self._lock = threading.Lock()
        self._readers = threading.Semaphore(READERS)

    def of_run(self, run_id: str) -> dict:
        """The view of a comparison that has ended. Raises UserError for one that is not here, or has said nothing."""
        run = self.runs.find(run_id)
        if not run.ended:
            raise UserError("This comparison is still going on: stop it, or wait for its end.")
        lanes = run.plan.record["lanes"] if run.plan else []
        traces = [run.traces[lane] for lane in lanes if lane in run.traces and run.traces[lane].steps]
        if not traces:
            raise UserError("Nothing was said in this comparison.")
        return views.of_traces(run.request.prompt, run.request.history, traces, {"run": run_id})

    def of_battle(self, battle: Battle, battle_id: str) -> dict:
        return views.of_battle(battle, {"battle": battle_id})

    def of_file(self, text: str, name: str) -> dict:
        """The view in a file. Raises UserError for what is none."""
        with self._readers:
            return views.read(text, name)

    def begin(self, asked: dict, session: str) -> Run:
        """A branch: the base and the lane's aligners (or others' strengths, gates and mode) go on from forced tokens.

        asked: {prompt, history, settings, lane, forced, mode?, strengths?, taus?}; see `_branch`. Raises UserError.
        """
        return self.runs.start(_branch(asked), session)

    def part(self, run_id: str, heard: int) -> dict:
        """What a run has decided after its first `heard` events, in the columns of a trace."""
        run = self.runs.find(run_id)
        news = run.news(heard, wait=0)
        record = run.plan.record if run.plan else {}
        each = groupby(sorted(news.steps, key=lambda step: step.lane), key=lambda step: step.lane)
        return {
            "state": news.state,
            "note": news.note,
            "heard": news.heard,
            "lanes": [_head(record, lane) for lane in record.get("lanes", ())] if heard == 0 else [],
            "parts": [_part(lane, list(steps), record) for lane, steps in each],
            "ended": [trace.summary() for trace in news.traces],
        }

    def replay(self, view: dict, session: str) -> str:
        """Begin to answer a view again. Returns the replay's id. Raises UserError for what cannot be asked for."""
        return self._begin(self._asked(view), session)

    def _asked(self, view: dict) -> dict:
        """What a page says that it has open, checked like a file."""
        return asked_of(self.of_file(json.dumps(view), "What is open here"))

    def _begin(self, asked: dict, session: str) -> str:
        replay = Replay(self.runs.opening.wait(), asked)
        replay_id = uuid4().hex
        with self._lock:
            for other, (owner, earlier) in list(self._replays.items()):
                if owner == session or len(self._replays) >= KEPT:
                    earlier.stop()
                    del self._replays[other]
            self._replays[replay_id] = (session, replay)
        return replay_id

    def standing(self, replay_id: str, session: str) -> Standing:
        return self._replay(replay_id, session).standing()

    def of_replay(self, replay_id: str, session: str) -> dict:
        """What was said this time. Raises UserError while it is not over."""
        replay = self._replay(replay_id, session)
        if len(replay.traces) < len(replay.asked):
            raise UserError("It is not answered again yet.")
        found: dict[int, list] = {}
        for (turn, name), asked in replay.asked.items():
            trace = replay.traces[turn, name]
            found.setdefault(turn, []).append((asked.prompt, name, trace, asked.history))
        return views.of_replay(found)

    def _replay(self, replay_id: str, session: str) -> Replay:
        with self._lock:
            owner, replay = self._replays.get(replay_id, ("", None))
        if replay is None or owner != session:
            raise UserError("This replay is no longer here; start it again.")
        return replay

    def link(self, view: dict) -> str:
        """What an address carries so that all of a view can be answered again: no candidates, only what was asked and
        the tokens that were drawn. Raises UserError where that is too long for an address."""
        asked = self._asked(view)
        settings: list[dict] = []
        lanes = []
        for (turn, name), one in asked.items():
            if one.settings not in settings:
                settings.append(one.settings)
            place = [turn, name, one.lane, settings.index(one.settings)]
            lanes.append([*place, one.prompt, [list(entry) for entry in one.history], list(one.tokens)])
        text = json.dumps({"version": views.VERSION, "settings": settings, "lanes": lanes}, separators=(",", ":"))
        found = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        if len(found) > LONGEST_LINK:
            raise UserError("This is too long for a link: save it as a page or a trace, and share that.")
        return found

    def follow(self, link: str, session: str) -> str:
        """Begin to answer what a link carries. Returns the replay's id. Raises UserError for what is no link."""
        return self._begin(_linked(link), session)


def _head(record: dict, lane: str) -> dict:
    return {**views.lane_head(record, lane), "settings": record}


def _part(lane: str, steps: Sequence[Step], record: dict) -> dict:
    return {"lane": lane, **columns(steps, seats(record, lane))}


def _branch(asked: dict) -> Request:
    """A checked request. A base's lane takes the first aligned one of its comparison beside it."""
    try:
        settings, lane, prompt = asked["settings"], asked["lane"], asked["prompt"]
        check_settings(settings, lane)
        forced = asked["forced"]
        strengths, taus = dict(asked.get("strengths") or {}), dict(asked.get("taus") or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("The page sent something that is no branch; reload it.") from None
    if not isinstance(prompt, str) or not isinstance(forced, list) or any(type(token) is not int for token in forced):
        raise UserError("The page sent something that is no branch; reload it.")
    name = lane if settings["lanes"][lane] else next((n for n, found in settings["lanes"].items() if found), lane)
    check_settings(settings, name)
    choices = []
    for aligner in settings["lanes"][name]:
        beta = strengths.get(aligner["name"], aligner["beta"])
        tau = taus.get(aligner["name"], aligner["tau"])
        if not _is_number(beta) or not (tau is None or _is_number(tau)):
            raise UserError("A strength or a gate is no number.")
        choices.append(Choice(aligner["name"], beta, "off" if tau is None else tau))
    values = {field.name: settings[field.name] for field in fields(DecodingSettings)}
    longest = max(settings["max_new_tokens"], len(forced) + ROOM)
    if longest - len(forced) > MOST_NEW:
        longest = len(forced) + MOST_NEW
    mode = asked.get("mode", settings["modes"][name])
    return Request(
        prompt,
        (tuple(choices),) if choices else (),
        settings=replace(DecodingSettings(**values), mode=mode, max_new_tokens=longest),
        history=views.history_of(asked),
        forced=tuple(forced),
    )


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _linked(link: str) -> dict:
    try:
        text = base64.b64decode(link.encode() + b"=" * (-len(link) % 4), altchars=b"-_", validate=True)
        found = json.loads(text)
        settings, asked = found["settings"], {}
        for turn, name, lane, which, prompt, history, tokens in found["lanes"]:
            texts = all(isinstance(word, str) for word in (name, lane, prompt))
            if not texts or any(type(token) is not int for token in tokens):
                raise ValueError
            check_settings(settings[which], lane)
            entries = views.history_of({"history": history})
            asked[int(turn), name] = Asked(prompt, entries, lane, settings[which], tokens)
        if not 0 < len(asked) <= views.MOST_LANES * views.MOST_TURNS or len(link) > LONGEST_LINK:
            raise ValueError
    except (binascii.Error, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise UserError("This link is broken: it holds nothing that can be answered again.") from None
    return asked

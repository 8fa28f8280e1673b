"""Votes in the forms that other programs know: TRL's, the public arena's, AlpacaEval's. One vote in, its rows out.

And back, where a form tells of a vote. Knows nothing of files or databases. TRL: its guide to dataset formats,
conversational. The arena: the columns of lmsys/chatbot_arena_conversations, which FastChat's rating notebook reads.
AlpacaEval: `model_outputs.json`.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from ram_demo.votes.battles import BASE, SIDES, Ballot, Battle, Response, Turn, VoteRow
from ram_demo.votes.records import BadRecord

Row = dict[str, Any]

WINNERS = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
SOMEBODY = "arena_user"  # the judge where voters are not told
OUR_ID = re.compile("[0-9a-f]{32}")


# To other programs ----------------------------------------------------------------------------------------------------


def trl(row: VoteRow, _voter: str | None) -> Iterator[Row]:
    """`prompt`, `chosen`, `rejected`. Ties and both-bad say nothing of which is better, and equal answers neither.

    Of a conversation the prompt is its first question, and the answers are all that followed on either side.
    """
    if row.choice in SIDES and row.counts:
        other = SIDES[1 - SIDES.index(row.choice)]
        chosen, rejected = _answers(row.battle, row.choice), _answers(row.battle, other)
        if _said(chosen) and _said(rejected) and _said(chosen) != _said(rejected):
            yield {"prompt": _question(row.battle), "chosen": chosen, "rejected": rejected}


def trl_unpaired(row: VoteRow, _voter: str | None) -> Iterator[Row]:
    """`prompt`, `completion`, `label`: the better answer is wanted and the worse is not; of both-bad neither is."""
    if row.choice != "tie" and row.counts:
        for side in SIDES:
            completion = _answers(row.battle, side)
            if _said(completion):
                yield {"prompt": _question(row.battle), "completion": completion, "label": side == row.choice}


def arena(row: VoteRow, voter: str | None) -> Iterator[Row]:
    """The public arena's columns, `question_id` being the vote's id. Placebo rounds rate nobody and are left out."""
    if row.counts and row.battle.kind != "placebo":
        turns = row.battle.turns
        yield {
            "question_id": row.id,
            "model_a": turns[0].a.label,
            "model_b": turns[0].b.label,
            "winner": WINNERS[row.choice],
            "judge": f"{SOMEBODY}_{voter}" if voter else SOMEBODY,
            "conversation_a": _question(row.battle) + _answers(row.battle, "a"),
            "conversation_b": _question(row.battle) + _answers(row.battle, "b"),
            "turn": len(turns),
            "anony": row.battle.blind,
            "language": "unknown",
            "tstamp": row.created_at.timestamp(),
        }


def alpaca(row: VoteRow, _voter: str | None) -> Iterator[Row]:
    """The two first answers, as outputs of their generators."""
    if row.counts:
        for answer in (row.battle.a, row.battle.b):
            yield {"instruction": row.battle.prompt, "output": answer.text, "generator": answer.label}


def _question(battle: Battle) -> list[Row]:
    return [{"role": "user", "content": battle.prompt}]


def _answers(battle: Battle, side: str) -> list[Row]:
    """All that followed the first question on one side, the person's later turns among it."""
    said = [{"role": "assistant", "content": getattr(battle, side).text}]
    for turn in battle.later:
        said += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": getattr(turn, side).text}]
    return said


def _said(messages: list[Row]) -> list[str]:
    """The answers among the messages; nothing where one of them is empty."""
    answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
    return answers if all(answers) else []


# From other programs --------------------------------------------------------------------------------------------------


def from_trl(row: Row, seen: int) -> VoteRow:
    """A preference as a vote for A, of a model named `chosen` over one named `rejected`. Raises BadRecord."""
    prompt = _messages(row, "prompt", "user")
    chosen, rejected = (_messages(row, name, "assistant") for name in ("chosen", "rejected"))
    turns = _turns(prompt + chosen, prompt + rejected)
    return _vote(_identity("trl", row, seen), "a", ("chosen", "rejected"), turns, session="", blind=False)


def from_arena(row: Row, seen: int) -> VoteRow:
    """A vote of an arena; `model_a`, `model_b` and `winner` at least. Raises BadRecord.

    A row without `question_id` may stand for several votes: `seen` tells how many equal ones went before it.
    """
    models = tuple(row.get(name) for name in ("model_a", "model_b"))
    for name, model in zip(("model_a", "model_b"), models, strict=True):
        if not isinstance(model, str) or not model.strip():
            raise BadRecord(f"{name!r} must name a model")
    choices = {winner: choice for choice, winner in WINNERS.items()}
    if row.get("winner") not in choices:
        raise BadRecord(f"'winner' must be one of {', '.join(choices)}")
    question = row.get("question_id")
    ours = isinstance(question, str) and OUR_ID.fullmatch(question)
    identity = question if ours else _identity("arena", row, 0 if question else seen)
    sides = [_messages(row, name) if row.get(name) else [] for name in ("conversation_a", "conversation_b")]
    judge = str(row.get("judge") or "").removeprefix(SOMEBODY).removeprefix("_")
    blind, moment = str(row.get("anony", True)).lower() != "false", _moment(row.get("tstamp"))
    return _vote(identity, choices[row["winner"]], models, _turns(*sides), judge, blind, moment)


def _messages(row: Row, name: str, role: str = "") -> list[Row]:
    """A conversation; a plain text is one message of `role`. Cells of a sheet hold it as JSON. Raises BadRecord."""
    value = row.get(name)
    if isinstance(value, str) and role:
        value = [{"role": role, "content": value}]
    elif isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    right = isinstance(value, list) and all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in value
    )
    if not right:
        raise BadRecord(f"{name!r} must be a list of messages with 'role' and 'content'")
    return value


def _turns(a: list[Row], b: list[Row]) -> list[tuple[str, str, str]]:
    """(what was asked, A's answer, B's answer) of each turn; one empty turn where nothing was kept."""
    asked = [message["content"] for message in a if message["role"] == "user"]
    said = [[message["content"] for message in side if message["role"] == "assistant"] for side in (a, b)]
    if not len(asked) == len(said[0]) == len(said[1]):
        raise BadRecord("both sides must answer each question once")
    return list(zip(asked, *said, strict=True)) or [("", "", "")]


def _moment(stamp: Any) -> datetime:
    try:
        return datetime.fromtimestamp(float(stamp), timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.now(timezone.utc)


def _identity(format: str, row: Row, seen: int) -> str:
    """The same id whenever the same row is read, so that it is kept once."""
    return hashlib.sha256(json.dumps([format, row, seen], sort_keys=True).encode()).hexdigest()[:32]


def _vote(
    identity: str,
    choice: str,
    models: tuple[str, str],
    turns: list[tuple[str, str, str]],
    session: str,
    blind: bool,
    moment: datetime | None = None,
) -> VoteRow:
    found = [
        Turn(asked, *(_response(model, text) for model, text in zip(models, texts, strict=True)))
        for asked, *texts in turns
    ]
    first, *later = found
    battle = Battle(
        prompt=first.prompt,
        session=session,
        seed=None,
        mode="",
        settings={},
        proposal="",
        proposal_revision="",
        a=first.a,
        b=first.b,
        later=tuple(later),
        kind="placebo" if models[0] == models[1] else "pair",
        blind=blind,
    )
    moment = moment or datetime.now(timezone.utc)
    return VoteRow(identity, moment, choice, Ballot(), True, "", identity, moment, "", True, battle)


def _response(model: str, text: str) -> Response:
    """All that is known of an answer that was given elsewhere."""
    aligners = "" if model == BASE else model
    return Response(model, aligners, "", text, None, None, None, None, None, None, {})

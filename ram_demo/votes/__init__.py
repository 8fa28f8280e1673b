"""What people thought: battles and votes, kept and exported. The only room that imports sqlalchemy."""

from ram_demo.votes.battles import (
    CHOICES,
    KINDS,
    LONGEST_COMMENT,
    REASONS,
    SIDES,
    Ballot,
    Battle,
    NewBattle,
    Response,
    Turn,
    VoteRow,
)
from ram_demo.votes.columns import clean_text
from ram_demo.votes.export import FORMATS, export, preferences
from ram_demo.votes.importing import IMPORTS, read, read_vote
from ram_demo.votes.reading import Columns
from ram_demo.votes.store import VoteStore
from ram_demo.votes.styles import MARKS

__all__ = [
    "CHOICES",
    "FORMATS",
    "IMPORTS",
    "KINDS",
    "LONGEST_COMMENT",
    "MARKS",
    "REASONS",
    "SIDES",
    "Ballot",
    "Battle",
    "Columns",
    "NewBattle",
    "Response",
    "Turn",
    "VoteRow",
    "VoteStore",
    "clean_text",
    "export",
    "preferences",
    "read",
    "read_vote",
]

"""What people thought: battles and votes, kept and exported. The only room that imports sqlalchemy."""

from ram_demo.votes.export import FORMATS, export, preferences
from ram_demo.votes.store import CHOICES, Battle, Response, VoteRow, VoteStore

__all__ = ["CHOICES", "FORMATS", "Battle", "Response", "VoteRow", "VoteStore", "export", "preferences"]

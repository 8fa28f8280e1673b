"""Votes in, ratings out: Bradley-Terry with ties, its intervals, Elo, and plain shares. Numbers only, no SQL."""

from ram_demo.ranking.ballots import BASE, Ballots, relative
from ram_demo.ranking.elo import elo
from ram_demo.ranking.ratings import INTERVALS, LEVEL, POINTS, RIDGE, Ratings, fit
from ram_demo.ranking.shares import Meetings, Share, along, both_bad, left, meetings, votes_to_separate, wins_of_b

__all__ = [
    "BASE",
    "INTERVALS",
    "LEVEL",
    "POINTS",
    "RIDGE",
    "Ballots",
    "Meetings",
    "Ratings",
    "Share",
    "along",
    "both_bad",
    "elo",
    "fit",
    "left",
    "meetings",
    "relative",
    "votes_to_separate",
    "wins_of_b",
]

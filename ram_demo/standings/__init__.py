"""What the votes say so far. Stands between the store and the ratings, for the page and the command line alike."""

from ram_demo.standings.leaderboard import Leaderboard
from ram_demo.standings.numbers import votes
from ram_demo.standings.reckon import standings
from ram_demo.standings.records import CONTROLS, Curve, Filters, Place, Standings, as_text

__all__ = ["CONTROLS", "Curve", "Filters", "Leaderboard", "Place", "Standings", "as_text", "standings", "votes"]

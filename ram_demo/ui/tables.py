"""The leaderboard as plain HTML: the table, who beat whom, and what is not about one lane. All names are escaped."""

from html import escape
from math import isnan

from ram_demo.ranking import BASE, Share
from ram_demo.standings import Curve, Place, Standings

EMPTY = (
    '<div class="league-empty"><h3>No votes to rate yet</h3><p>Compare two answers, or meet them blind in the Arena, '
    "and say which is better. Every aligner and strength is then rated here against the base, with how sure that is."
    "</p></div>"
)
MANY = 9999  # votes: more than that and nobody is told how many


def empty(standings: Standings) -> str:
    """What is told where no vote is rated: there is none, or the filters leave none."""
    if not standings.kinds:
        return EMPTY
    return '<div class="league-empty"><h3>None of the votes</h3><p>Choose other filters to see some rated.</p></div>'


def summary(standings: Standings) -> str:
    """How many votes are rated, and why others are not."""
    left_out = "".join(f"; {count:,} not: {escape(why)}" for why, count in standings.left_out.items())
    return f'<p class="league-said" role="status"><b>{standings.in_words}</b> rated{left_out}.</p>'


def ratings(standings: Standings) -> str:
    """Every lane's place, points, interval, votes, and what is missing to tell it from the next."""
    has_elo = any(place.elo is not None for place in standings.places)
    heads = ["", "Aligner", "Strength", "Points", "Votes", "Beats the base", "Votes to part it from the next"]
    head = "".join(f'<th scope="col">{words}</th>' for words in heads + ["Elo"] * has_elo)
    rows = "".join(_row(number, place) for number, place in enumerate(standings.places, 1))
    return (
        '<div class="league-scroll" tabindex="0"><table class="league"><caption>Ratings</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="league-note">Points on Elo’s scale: 400 more are 10 : 1 among votes that prefer one of two; below, '
        "the 95% interval. A tie and both bad say that neither is better.</p>"
    )


def _row(number: int, place: Place) -> str:
    is_base = place.lane == BASE
    interval = f"<small>{'fixed' if is_base else f'{_points(place.low)} to {_points(place.high)}'}</small>"
    cells = [
        f"<td>{number}</td>",
        f'<th scope="row">{escape(place.aligner)}</th>',
        f"<td>{'' if place.strength is None else f'{place.strength:g}'}</td>",
        f"<td><b>{_points(place.points)}</b> {interval}</td>",
        f"<td>{place.votes:,}</td>",
        f"<td>{_share(place.against_base)}</td>",
        f"<td>{_separating(place.separating)}</td>",
    ]
    if place.elo is not None:
        cells.append(f"<td>{_points(place.elo)}</td>")
    return f"<tr{' class=base' * is_base}>{''.join(cells)}</tr>"


def _points(points: float) -> str:
    return f"{round(points):+d}".replace("-", "−").replace("+0", "0")


def _separating(votes: int | None) -> str:
    if votes is None:
        return ""
    return "apart" if votes == 0 else f"{votes:,}" if votes <= MANY else f"over {MANY:,}"


def _share(share: Share | None) -> str:
    """A share with its interval and its votes; a dash where nothing is known."""
    if share is None or isnan(share.value):
        return "–"
    return f"{share.value:.0%} <small>{share.low:.0%} to {share.high:.0%} of {share.votes:,}</small>"


def matrix(standings: Standings) -> str:
    """How often the lane of a row was preferred to the lane of a column, coloured by which way it leans."""
    lanes = [escape(place.lane) for place in standings.places]
    head = "".join(f'<th scope="col"><span>{lane}</span></th>' for lane in lanes)
    rows = "".join(
        f'<tr><th scope="row">{lane}</th>{"".join(map(_cell, row))}</tr>'
        for lane, row in zip(lanes, standings.matrix, strict=True)
    )
    return (
        '<div class="league-scroll" tabindex="0"><table class="league-matrix"><caption>Who beat whom</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="league-note">How often the row was preferred to the column, ties and both bad as half; below, of '
        "how many votes.</p>"
    )


def _cell(share: Share) -> str:
    if not share.votes:
        return "<td>–</td>"
    side, strength = ("up", share.value - 0.5) if share.value >= 0.5 else ("down", 0.5 - share.value)
    colour = f"rgb(var(--push-{side}) / {1.2 * strength:.2f})"
    return f'<td style="background: {colour}">{share.value:.0%}<small>{share.votes}</small></td>'


def curves(curves: tuple[Curve, ...], along: str) -> str:
    """The numbers of a figure, for those who would rather read them."""
    rows = "".join(
        f'<tr><td></td><th scope="row">{escape(curve.aligner)}</th><td>{x:.2f}</td><td>{_share(share)}</td></tr>'
        for curve in curves
        for x, share in curve.points
    )
    heads = "".join(f'<th scope="col">{words}</th>' for words in ("", "Aligner", along, "Preferred to the base"))
    return (
        '<details class="league-numbers"><summary>In numbers</summary><div class="league-scroll"><table class="league">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def facts(standings: Standings) -> str:
    """What is not about one lane: the left side, ties, both bad, and what was taken out."""
    told = [
        (
            "The left side",
            _share(standings.left_in_placebos),
            "preferred in placebo rounds, whose two answers come from one lane; 50% is nobody’s side",
        ),
        (
            "The left side, between equals",
            _share(standings.left_in_all),
            "from all blind votes, with the lanes’ strengths taken out",
        ),
        ("Both bad", _share(standings.both_bad), "of all rated votes"),
        ("A tie", "–" if standings.tie is None else f"{standings.tie:.0%}", "between two equals, both bad among them"),
    ]
    for weight in standings.weights:
        value, low, high = map(_points, (weight.points, weight.low, weight.high))
        words = f"what twice the {escape(weight.name)} gains by itself; taken out of the ratings"
        told.append((f"Twice the {escape(weight.name)}", f"{value} <small>{low} to {high}</small>", words))
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><p>{words}</p></div>" for name, value, words in told)
    return f'<dl class="league-facts">{cards}</dl>'

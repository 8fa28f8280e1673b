"""The leaderboard's figures in plotly. Names on them are text: plotly reads a few tags, so they are escaped.

Backgrounds are clear, and `leaderboard.css` colours text and lines, so a figure is right in light and in dark. Colours
are Okabe and Ito's, which the colour-blind tell apart; each aligner has a mark of its own too.
"""

from html import escape

import plotly.graph_objects as go

from ram_demo.ranking import BASE
from ram_demo.standings import Curve, Standings

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = ("circle", "square", "triangle-up", "x", "star", "triangle-down")
GREY = "#7d8796"
LANE, LONGEST = 34, 26  # height of a lane in pixels; letters of its name


def ratings(standings: Standings) -> go.Figure:
    """Points of each lane with its interval, best on top, the base at zero."""
    figure = go.Figure()
    for aligner, (colour, mark) in styles(standings).items():
        places = [place for place in standings.places if place.aligner == aligner]
        figure.add_scatter(
            x=[place.points for place in places],
            y=[_short(place.lane) for place in places],
            error_x={
                "array": [place.high - place.points for place in places],
                "arrayminus": [place.points - place.low for place in places],
                "thickness": 2,
                "width": 5,
            },
            customdata=[[escape(p.lane), p.low, p.high, p.votes] for p in places],
            hovertemplate="%{customdata[0]}: %{x:.0f}<br>%{customdata[1]:.0f} to %{customdata[2]:.0f}, "
            "%{customdata[3]} votes<extra></extra>",
            mode="markers",
            marker={"color": colour, "symbol": mark, "size": 11},
        )
    figure.add_vline(x=0, line={"dash": "dot", "color": GREY, "width": 1.5})
    lanes = [_short(place.lane) for place in standings.places]
    figure.update_yaxes(categoryorder="array", categoryarray=lanes[::-1], showgrid=False)
    figure.update_xaxes(title="points; the base is 0", zeroline=False)
    return _plain(figure, height=90 + LANE * len(lanes))


def against_base(curves: tuple[Curve, ...], standings: Standings, along: str) -> go.Figure:
    """How often each aligner was preferred to the base, along a number that `along` names."""
    figure = go.Figure()
    for curve in curves:
        colour, mark = styles(standings)[curve.aligner]
        x, shares = zip(*curve.points, strict=True)
        figure.add_scatter(
            x=x,
            y=[share.value for share in shares],
            error_y={
                "array": [share.high - share.value for share in shares],
                "arrayminus": [share.value - share.low for share in shares],
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[share.votes for share in shares],
            hovertemplate=f"{escape(curve.aligner)}, %{{x:.2f}}: %{{y:.0%}} of %{{customdata}}<extra></extra>",
            name=_short(curve.aligner),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": mark, "size": 9},
        )
    figure.add_hline(y=0.5, line={"dash": "dot", "color": GREY, "width": 1.5})
    figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", zeroline=False)
    figure.update_xaxes(title=along, rangemode="tozero", zeroline=False)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return _plain(figure, height=320)


def styles(standings: Standings) -> dict[str, tuple[str, str]]:
    """A colour and a mark for each aligner, the base's being its own."""
    aligners = sorted({place.aligner for place in standings.places} - {BASE})
    found = {name: (COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]) for i, name in enumerate(aligners)}
    return {BASE: (GREY, "diamond"), **found}


def _short(name: str) -> str:
    return escape(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", quote=False)


def _plain(figure: go.Figure, height: int) -> go.Figure:
    """Nothing that moves under a thumb, no room wasted, no background."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"font": {"size": 13}},
        dragmode=False,
        **({} if figure.layout.showlegend else {"showlegend": False}),
    )
    figure.update_xaxes(automargin=True, fixedrange=True, ticks="", title_font_size=13)
    figure.update_yaxes(automargin=True, fixedrange=True, ticks="")
    return figure

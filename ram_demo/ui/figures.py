"""Figures in plotly: KL along the answer, a line a lane, gated tokens marked. Pure functions from steps to figures."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ram_demo.decoding.trace import Step

# Okabe and Ito's palette: told apart by colour-blind people too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#8a8f98"  # legible on light and on dark


def kl_timeline(lanes: Mapping[str, Sequence[Step]], taus: Mapping[str, float | None]) -> go.Figure:
    """KL(P_M || Q) in nats for each token of each aligned lane; gated tokens as open diamonds; thresholds dashed."""
    figure = go.Figure()
    for at, (lane, steps) in enumerate(lanes.items()):
        colour = COLOURS[at % len(COLOURS)]
        figure.add_scatter(
            x=[s.index + 1 for s in steps],
            y=[s.kl for s in steps],
            customdata=[_legible(s.text) for s in steps],
            name=_legible(lane),
            mode="lines+markers",
            line={"color": colour, "width": 1.5},
            marker={
                "size": [9 if s.gated else 4 for s in steps],
                "symbol": ["diamond-open" if s.gated else "circle" for s in steps],
                "color": colour,
            },
            hovertemplate="%{customdata}<br>KL %{y:.3f}<extra></extra>",
        )
        if taus.get(lane) is not None:
            figure.add_hline(y=taus[lane], line={"color": colour, "dash": "dash", "width": 1})
    figure.update_layout(
        height=270,
        margin={"l": 48, "r": 12, "t": 56, "b": 40},
        title={
            "text": "KL of proposal and aligner, token by token",
            "font": {"size": 14},
            "x": 0.01,
            "xanchor": "left",
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12},
        legend={"orientation": "h", "y": 1.2, "x": 1, "xanchor": "right"},
        showlegend=True,
        xaxis={"title": "token", "gridcolor": "rgba(138,143,152,.18)", "zeroline": False, "rangemode": "tozero"},
        yaxis={"title": "KL (nats)", "gridcolor": "rgba(138,143,152,.18)", "zeroline": False, "rangemode": "tozero"},
    )
    return figure


def _legible(text: str) -> str:
    """Text for plotly, which reads a small markup of its own: its two special characters are escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "⏎") or "·"

"""A record's controls as curves in their units, and the ways of what moves, as Plotly figures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipelines.audit.motion import movers
from pipelines.audit.picture import COLOURS
from schemas import SLOTS, Chunk

_UNITS = {"m": "metres", "rad": "radians", "1": "of its range"}
_GRID, _ZERO = "rgba(128,128,128,0.25)", "rgba(128,128,128,0.5)"
_LAYOUT = {
    "template": "plotly_white",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(128,128,128,0.08)",
    "font": {"color": "#808890", "size": 12},
    "margin": {"l": 50, "r": 10, "t": 30, "b": 40},
    "legend": {"orientation": "h", "y": -0.25},
    "title": {"font": {"size": 13}},
}


class Plot(NamedTuple):
    """A figure, and how many pixels high it is."""

    figure: go.Figure
    height: int


def curves(chunk: Chunk) -> Plot | None:
    """Every slot that the record has over its times, one plot per unit; None if it has none."""
    used = np.flatnonzero(chunk.control_mask)
    units = [unit for unit in _UNITS if any(SLOTS[i].unit == unit for i in used)]
    if not units or not chunk.num_frames:
        return None
    figure = make_subplots(rows=len(units), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i in used:
        slot = SLOTS[i]
        line = go.Scatter(
            x=chunk.times.tolist(),
            y=chunk.controls[:, i].tolist(),
            name=slot.name,
            mode="lines+markers",
            line={"shape": "hv", "width": 1.5},
            marker={"size": 4},
        )
        figure.add_trace(line, row=units.index(slot.unit) + 1, col=1)
    for row, unit in enumerate(units, 1):
        figure.update_yaxes(title_text=_UNITS[unit], row=row, col=1)
    figure.update_xaxes(title_text="seconds since the episode's start", row=len(units), col=1)
    return _finished(figure, 90 + 170 * len(units))


def _finished(figure: go.Figure, height: int) -> Plot:
    """With colours that both schemes can bear."""
    figure.update_xaxes(gridcolor=_GRID, zerolinecolor=_ZERO)
    figure.update_yaxes(gridcolor=_GRID, zerolinecolor=_ZERO)
    figure.update_layout(**_LAYOUT, height=height)
    return Plot(figure, height)


def ways(chunk: Chunk) -> Plot | None:
    """Where effector, base and camera go, seen from above and from the side; None if nothing
    moves."""
    there = movers(chunk)
    if not there or not np.isfinite(chunk.controls).all() or chunk.num_frames < 2:
        return None
    names = ("from above (left ←, forward ↑)", "from the left (forward →, up ↑)")
    figure = make_subplots(rows=1, cols=2, subplot_titles=names)
    for mover in there:
        colour = "rgb({}, {}, {})".format(*COLOURS[mover.name])
        x, y, z = mover.way(chunk.controls).T
        for column, (across, up) in enumerate(((-y, x), (x, z)), 1):
            line = go.Scatter(
                x=across.tolist(),
                y=up.tolist(),
                mode="lines+markers+text",
                name=mover.name,
                showlegend=column == 1,
                text=["start", *[""] * (len(x) - 1)],
                textposition="top center",
                marker={"size": np.linspace(4, 9, len(x)).tolist(), "color": colour},
                line={"color": colour},
                legendgroup=mover.name,
            )
            figure.add_trace(line, row=1, col=column)
    for column in (1, 2):
        anchor = "x" if column == 1 else "x2"
        figure.update_yaxes(scaleanchor=anchor, title_text="metres", row=1, col=column)
        figure.update_xaxes(title_text="metres", row=1, col=column)
    return _finished(figure, 330)

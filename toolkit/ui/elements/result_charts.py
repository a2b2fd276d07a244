"""Charts of an evaluation: differences with their intervals, and expected by answered labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from toolkit.ui.elements.charts import series_colors, strip_chart_markup

STATIC_CHART: dict[str, Any] = {"displayModeBar": False, "responsive": True, "scrollZoom": False}
"""Plotly's options for a chart that needs no toolbar."""
LABEL_CHARACTERS = 24


@dataclass(frozen=True)
class ShownDifference:
    """One line of the interval chart. low, high: None where there are too few rows for an interval.

    summary: the difference with its interval in words. verdict: better, worse, noise or differs.
    """

    title: str
    value: float
    low: float | None
    high: float | None
    summary: str
    verdict: str


def draw_interval_chart(differences: Sequence[ShownDifference], axis_title: str) -> go.Figure:
    """Chart each difference as a dot with its interval, next to a line at zero: "no change"."""
    # the second line of a label is the result itself, so that it can be read without the axis
    names = [
        f"<b>{strip_chart_markup(shown.title)}</b><br>{strip_chart_markup(shown.summary)}" for shown in differences
    ]
    figure = go.Figure([_draw_interval(shown, name) for shown, name in zip(differences, names, strict=True)])
    ends = [end for shown in differences for end in (shown.value, shown.low, shown.high, 0.0) if end is not None]
    room = 0.08 * ((max(ends) - min(ends)) or 1.0)
    figure.update_layout(showlegend=False, height=86 + 58 * len(names), margin={"l": 8, "r": 16, "t": 22, "b": 8})
    figure.update_xaxes(**_axis(), title=axis_title, nticks=7, range=[min(ends) - room, max(ends) + room])
    figure.update_yaxes(**_axis(), categoryorder="array", categoryarray=names[::-1], showgrid=False)
    figure.add_vline(0, line={"color": series_colors()[7], "width": 1.5, "dash": "dot"})
    figure.add_annotation(text="no change", x=0, y=1, yref="paper", yanchor="bottom", showarrow=False)
    return figure


def _draw_interval(shown: ShownDifference, name: str) -> go.Scatter:
    color = {"better": series_colors()[0], "worse": series_colors()[1]}.get(shown.verdict, series_colors()[7])
    low, high = (shown.value if end is None else end for end in (shown.low, shown.high))
    interval = {"type": "data", "symmetric": False, "array": [high - shown.value], "arrayminus": [shown.value - low]}
    return go.Scatter(
        x=[shown.value],
        y=[name],
        mode="markers",
        marker={"size": 11, "color": color},
        error_x={**interval, "color": color, "thickness": 3, "width": 6, "visible": shown.low is not None},
        hovertemplate=f"{name}<extra></extra>",
    )


def draw_confusion_chart(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """Chart the rows by expected and answered label: correct ones in the first color, mistakes in the second.

    counts: [i][j] rows with expected label i and answer j; the last column is any other answer.
    """
    rows = [_shorten(label) for label in labels]
    # numbers as positions: two labels may be the same once they are shortened
    down, across = list(range(len(rows))), list(range(len(rows) + 1))
    colors = series_colors()
    cells = [_draw_cells([*rows, "other"], counts, colors[1 - correct], correct=bool(correct)) for correct in (1, 0)]
    figure = go.Figure(cells)
    figure.update_layout(height=110 + 34 * len(rows), margin={"l": 8, "r": 8, "t": 8, "b": 8})
    figure.update_xaxes(
        **_axis(), title="answered", side="top", showgrid=False, tickvals=across, ticktext=[*rows, "other"]
    )
    figure.update_yaxes(**_axis(), title="expected", autorange="reversed", showgrid=False, tickvals=down, ticktext=rows)
    return figure


def _draw_cells(columns: Sequence[str], counts: Sequence[Sequence[int]], color: str, *, correct: bool) -> go.Heatmap:
    """Draw the cells on the diagonal, or all others, each in the strength of its share of its row."""
    background = st.get_option(f"theme.{_theme()}.secondaryBackgroundColor") or "#F2EFE8"
    drawn = [[count if (i == j) is correct else None for j, count in enumerate(row)] for i, row in enumerate(counts)]
    totals = [sum(row) or 1 for row in counts]
    return go.Heatmap(
        z=[[None if n is None else n / total for n in row] for row, total in zip(drawn, totals, strict=True)],
        zmin=0,
        zmax=1,
        colorscale=[[0, background], [1, color]],
        showscale=False,
        xgap=2,
        ygap=2,
        text=[[f"{count:,}" if count else "" for count in row] for row in drawn],
        texttemplate="%{text}",
        customdata=[[[row, column] for column in columns] for row in columns[:-1]],
        hoverongaps=False,
        hovertemplate="expected %{customdata[0]}, answered %{customdata[1]}: %{z:.1%}<extra></extra>",
    )


def _axis() -> dict[str, Any]:
    """Return an axis that can't be zoomed, with its text in the color of the page's text: it holds the results."""
    font = {"color": st.get_option(f"theme.{_theme()}.textColor") or "#101817", "size": 13}
    return {"fixedrange": True, "automargin": True, "zeroline": False, "tickfont": font}


def _theme() -> str:
    return "dark" if st.context.theme.type == "dark" else "light"


def _shorten(label: str) -> str:
    text = strip_chart_markup(label) or "(empty)"
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "…"

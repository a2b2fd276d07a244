"""Charts as plotly figures in the theme's colors.

`uirevision` stays the same while a run is on screen, so that a zoom survives new points. Figures are built without
plotly's validation, which took most of the time of a refresh; a test validates them instead. A page that refreshes
calls `reuse_figure`, which builds a figure only when its inputs have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from toolkit.runs.event_facts import Curve, CurvePoint
from toolkit.system.printable import strip_control_characters
from toolkit.ui.elements.thinning import MAX_POINTS_SMALL, smooth_curve, thin_curve

MAX_LABEL_CHARACTERS = 80
MAX_LEVEL_LABELS = 3
"""Axes of a parallel chart whose labels have room on a phone without being turned."""
_KEPT = "kept_figures"
ParallelAxis = tuple[str, Sequence[int], Sequence[str]]
"""Label, the place of each line's value, and the texts of the places."""
PLOTLY_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "responsive": True,
}
SMALL_PLOTLY_CONFIG = {**PLOTLY_CONFIG, "displayModeBar": False}
"""Without the toolbar, which would cover a small chart's curve. A drag still zooms, and a double click resets."""
SMALL_CHARTS = (
    # series, title, factor to the unit in the title, d3 number format of the hover text
    ("learning_rate", "Learning rate", 1.0, ".3g"),
    ("grad_norm", "Gradient norm", 1.0, ".3g"),
    ("tokens_per_second", "Tokens per second", 1.0, ",.0f"),
    ("memory_bytes", "Memory (MiB)", 1 / 2**20, ",.0f"),
    ("gpu_memory_bytes", "GPU memory (MiB)", 1 / 2**20, ",.0f"),
)


class FrozenFigure(go.Figure):  # type: ignore[misc]
    """A figure that caches its `to_dict`; do not change it after the first call.

    Streamlit calls `to_dict` for every rerun, and plotly then copies the figure and its template value by value. That
    took longer than everything else in a refresh.
    """

    def to_dict(self) -> dict[str, Any]:
        if "_cached_dict" not in vars(self):
            self._cached_dict = super().to_dict()
        return dict(self._cached_dict)


def reuse_figure(name: str, draw: Callable[..., go.Figure], *inputs: Any) -> go.Figure:
    """Return `draw(*inputs)`, cached in the session under `name` until the inputs or the theme's colors change."""
    cached = st.session_state.setdefault(_KEPT, {})
    key = (inputs, series_colors())
    if name not in cached or cached[name][0] != key:
        cached[name] = (key, draw(*inputs))
    return cached[name][1]


def series_colors() -> list[str]:
    """Return the theme's chart colors for the visitor's light or dark theme."""
    kind = "dark" if st.context.theme.type == "dark" else "light"
    return list(st.get_option(f"theme.{kind}.chartCategoricalColors") or ["#0B6E63", "#C2571A", "#4759B8"])


def loss_chart(
    curves: Mapping[str, Sequence[CurvePoint]],
    smoothing: float,
    revision: str,
    log_scale: bool = False,
    mark: tuple[int, str] | None = None,
    best: CurvePoint | None = None,
) -> go.Figure:
    """Chart the training loss (raw behind, smoothed in front) and the loss on the test split by step.

    smoothing: weight of the moving average, 0 to below 1; 0 draws no raw line.
    mark: step and label of a vertical line. best: step and loss of the best checkpoint, drawn as a star.
    """
    colors = series_colors()
    train = curves.get("loss", [])
    lines = [_line("Training (not smoothed)", thin_curve(train), colors[0], opacity=0.3, width=1)] if smoothing else []
    lines.append(_line("Training", thin_curve(smooth_curve(train, smoothing)), colors[0]))
    lines.append(_line("Test", thin_curve(curves.get("eval_loss", [])), colors[1], markers=True))
    if best is not None:
        star = {"symbol": "star", "size": 14, "color": colors[1], "line": {"color": "white", "width": 1}}
        lines.append(
            {**_line("Best checkpoint", Curve.from_points([best]), colors[1]), "mode": "markers", "marker": star}
        )
    axis = {"type": "log"} if log_scale else {"rangemode": "tozero"}
    figure = _figure(lines, revision, "step", legend=True, yaxis={"title": {"text": "loss"}, **axis})
    if mark is not None:
        _mark_step(figure, *mark, last=max((points[-1][0] for points in curves.values() if len(points)), default=0))
    return figure


def _mark_step(figure: go.Figure, step: int, label: str, *, last: int) -> None:
    """Draw a labeled vertical line; the label is on the side with more room. last: the last step of the chart."""
    vertical = {"type": "line", "x0": step, "x1": step, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
    text = {"text": label, "x": step, "xref": "x", "y": 1, "yref": "y domain", "showarrow": False, "yanchor": "top"}
    side = {"xanchor": "right", "xshift": -4} if 2 * step > last else {"xanchor": "left", "xshift": 4}
    line = {"color": "#8A94A6", "width": 1.5, "dash": "dot"}
    figure.update_layout({"shapes": [{**vertical, "line": line}], "annotations": [{**text, **side}]})


def small_chart(points: Sequence[CurvePoint], factor: float, number_format: str, revision: str) -> go.Figure:
    """Chart one series, multiplied by `factor`, without legend and title; the page shows the title above it."""
    shown = thin_curve(points, MAX_POINTS_SMALL)
    values = Curve(shown.steps, shown.values * factor)
    lines = [_line("", values, series_colors()[2], width=1.6, number_format=number_format)]
    y = {"rangemode": "tozero", "nticks": 4}
    return _figure(lines, revision, None, legend=False, yaxis=y, xaxis={"nticks": 5})


def overlay_chart(
    runs: Mapping[str, Sequence[CurvePoint]], title: str, revision: str, smoothing: float = 0.0
) -> go.Figure:
    """Chart the same series of several runs by step; the keys of `runs` are the labels in the legend."""
    colors = series_colors()
    lines = [
        _line(
            label,
            thin_curve(smooth_curve(points, smoothing), 200),
            colors[number % len(colors)],
            # past the last color the colors repeat with another dash
            dash=("solid", "dash", "dot", "dashdot")[number // len(colors) % 4],
        )
        for number, (label, points) in enumerate(runs.items())
    ]
    return _figure(lines, revision, "step", legend=True, yaxis={"title": {"text": title}})


def parallel_chart(axes: Sequence[ParallelAxis], result: tuple[str, Sequence[float], str], lower: bool) -> go.Figure:
    """Chart one line for each trial across its values, colored by the result.

    axes: label, the place of each trial's value, and the texts of the places. result: label, values and number format.
    lower: a smaller result is better.
    """
    title, values, number_format = result
    colors = series_colors()
    dimensions = [
        {
            "label": strip_chart_markup(label),
            "values": list(places),
            "tickvals": list(range(len(ticks))),
            "ticktext": [strip_chart_markup(text) for text in ticks],
            "range": [-0.2, len(ticks) - 0.8],
        }
        for label, places, ticks in axes
    ]
    dimensions.append({"label": strip_chart_markup(title), "values": list(values), "tickformat": number_format})
    line = {"color": list(values), "colorscale": [[0, colors[1]], [1, colors[0]]], "reversescale": lower}
    # the ends of an axis are ticks already: their range would stand over them
    fonts = {"labelfont": {"size": 13}, "tickfont": {"size": 12}, "rangefont": {"size": 1, "color": "rgba(0,0,0,0)"}}
    angle = 0 if len(dimensions) <= MAX_LEVEL_LABELS else -18
    lines = {"type": "parcoords", "line": line, "dimensions": dimensions, "labelangle": angle, "labelside": "bottom"}
    lines |= fonts
    layout = {"margin": {"l": 64, "r": 64, "t": 24, "b": 64}}
    return FrozenFigure({"data": [lines], "layout": layout}, _validate=False)


def length_chart(edges: Any, counts: Any, limit: int | None) -> go.Figure:
    """Chart a histogram of rows by tokens: bars beyond `limit` in another color, the limit as a dashed line.

    edges: bin edges in tokens, one more than counts. counts: rows per bin.
    """
    colors = series_colors()
    figure = go.Figure(_figure([], "lengths", "tokens", legend=False))
    bars = list(pairwise(edges))
    beyond = [limit is not None and (start + end - 1) / 2 > limit for start, end in bars]
    figure.add_bar(
        x=[(start + end) / 2 for start, end in bars],
        y=list(counts),
        width=[end - start for start, end in bars],
        marker={"color": [colors[1] if over else colors[0] for over in beyond], "line": {"width": 0}},
        customdata=[f"{start:,}–{end - 1:,} tokens" for start, end in bars],
        hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
    )
    figure.update_layout(hovermode="closest", bargap=0.06)
    figure.update_yaxes(title="rows", rangemode="tozero", nticks=4)
    if limit is not None and limit <= edges[-1] * 1.5:
        figure.add_vline(
            limit,
            line={"color": colors[7], "width": 1.5, "dash": "dash"},
            annotation={"text": f"limit {limit:,}", "yanchor": "top"},
        )
    return figure


def _figure(
    lines: list[dict[str, Any]], revision: str, x_title: str | None, *, legend: bool, **axes: dict[str, Any]
) -> go.Figure:
    numbers = {
        "automargin": True,
        "separatethousands": True,
        "exponentformat": "power",
    }  # 4,000, and 10⁻⁵ instead of 10µ
    x = {**numbers, "rangemode": "tozero", **({"title": {"text": x_title}} if x_title else {})}
    layout = {
        "uirevision": revision, "showlegend": legend, "hovermode": "x unified",
        "margin": {"l": 8, "r": 8, "t": 28 if legend else 6, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {**x, **axes.get("xaxis", {})},
        "yaxis": {**numbers, **axes.get("yaxis", {})},
    }  # fmt: skip
    return FrozenFigure({"data": lines, "layout": layout}, _validate=False)


def _line(
    name: str,
    points: Curve,
    color: str,
    *,
    opacity: float = 1.0,
    width: float = 2.0,
    markers: bool = False,
    dash: str = "solid",
    number_format: str = ".4g",
) -> dict[str, Any]:
    return {
        "type": "scatter", "x": points.steps, "y": points.values,
        "name": strip_chart_markup(name), "opacity": opacity, "marker": {"size": 6},
        "mode": "lines+markers" if markers or len(points) == 1 else "lines",
        "line": {"color": color, "width": width, "dash": dash},
        "hovertemplate": f"%{{y:{number_format}}}<extra>{strip_chart_markup(name)}</extra>",
    }  # fmt: skip


def strip_chart_markup(text: str) -> str:
    """Return `text` without what plotly reads as markup (entities, HTML tags, %{...}), cut to fit a legend."""
    line = " ".join(strip_control_characters(text).split())
    shown = line if len(line) <= MAX_LABEL_CHARACTERS else line[: MAX_LABEL_CHARACTERS - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "‹").replace(">", "›").replace("%{", "% {")

"""The charts, as plotly figures in the theme's colours. Knows points, not where they come from.

`uirevision` stays the same while a run is on screen: what one has zoomed to stays while new points arrive. Figures are
written down whole and unchecked: plotly's checks of each property took most of a refresh, and a test makes them. A page
that refreshes asks `kept` for its figures, which makes one only when something in it has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from toolkit.runs.curve import Curve, CurvePoint
from toolkit.system.printable import strip_control_characters
from toolkit.ui.elements.thinning import MAX_POINTS_SMALL, smooth_curve, thin_curve

MAX_LABEL_CHARACTERS = 80
_KEPT = "kept_figures"
PLOTLY_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "responsive": True,
}
SMALL_CHARTS = (
    # series, title, unit factor, format of the hover
    ("learning_rate", "Learning rate", 1.0, ".3g"),
    ("grad_norm", "Gradient norm", 1.0, ".3g"),
    ("tokens_per_second", "Tokens per second", 1.0, ",.0f"),
    ("memory_bytes", "Memory (MiB)", 1 / 2**20, ",.0f"),
    ("gpu_memory_bytes", "GPU memory (MiB)", 1 / 2**20, ",.0f"),
)


class FrozenFigure(go.Figure):  # type: ignore[misc]
    """A figure that is written down once, however often it is sent; not to be changed after that.

    plotly copies a figure value by value each time that Streamlit asks for it, its template too: that took more than
    all else in a refresh.
    """

    def to_dict(self) -> dict[str, Any]:
        if "_written" not in vars(self):
            self._written = super().to_dict()
        return dict(self._written)


def reuse_figure(name: str, draw: Callable[..., go.Figure], *about: Any) -> go.Figure:
    """`draw(*about)`; in this session the same figure again as long as all that it is about is equal."""
    held = st.session_state.setdefault(_KEPT, {})
    key = (about, series_colors())
    if name not in held or held[name][0] != key:
        held[name] = (key, draw(*about))
    return held[name][1]


def series_colors() -> list[str]:
    """The theme's colours for series, light or dark as the visitor sees it."""
    kind = "dark" if st.context.theme.type == "dark" else "light"
    return list(st.get_option(f"theme.{kind}.chartCategoricalColors") or ["#0B6E63", "#C2571A", "#4759B8"])


def loss_chart(
    curves: Mapping[str, Sequence[CurvePoint]],
    smoothing: float,
    revision: str,
    log_scale: bool = False,
    mark: int | None = None,
    best: CurvePoint | None = None,
) -> go.Figure:
    """Training loss (raw behind, smoothed in front) and loss on the test split; a thin line at the step `mark`.

    best: step and loss of the best checkpoint, marked by a star.
    """
    colours = series_colors()
    train = curves.get("loss", [])
    lines = [_line("Training, raw", thin_curve(train), colours[0], opacity=0.3, width=1)] if smoothing else []
    lines.append(_line("Training", thin_curve(smooth_curve(train, smoothing)), colours[0]))
    lines.append(_line("Test", thin_curve(curves.get("eval_loss", [])), colours[1], markers=True))
    if best is not None:
        star = {"symbol": "star", "size": 14, "color": colours[1], "line": {"color": "white", "width": 1}}
        lines.append({**_line("Best checkpoint", Curve.of([best]), colours[1]), "mode": "markers", "marker": star})
    axis = {"type": "log"} if log_scale else {"rangemode": "tozero"}
    figure = _figure(lines, revision, "step", legend=True, yaxis={"title": {"text": "loss"}, **axis})
    if mark is not None:
        line = {"color": "#8A94A6", "width": 1.5, "dash": "dot"}
        over_all = {"type": "line", "x0": mark, "x1": mark, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
        figure.update_layout({"shapes": [{**over_all, "line": line}]})
    return figure


def small_chart(points: Sequence[CurvePoint], factor: float, form: str, revision: str) -> go.Figure:
    """One series without a legend; its title stands above it on the page."""
    shown = thin_curve(points, MAX_POINTS_SMALL)
    lines = [_line("", Curve(shown.steps, shown.values * factor), series_colors()[2], width=1.6, form=form)]
    y = {"rangemode": "tozero", "nticks": 4}
    return _figure(lines, revision, None, legend=False, yaxis=y, xaxis={"nticks": 5})


def overlay_chart(
    runs: Mapping[str, Sequence[CurvePoint]], title: str, revision: str, smoothing: float = 0.0
) -> go.Figure:
    """The same series of several runs; the keys are their labels."""
    colours = series_colors()
    lines = [
        _line(
            label, thin_curve(smooth_curve(points, smoothing), 200), colours[number % len(colours)],
            dash=("solid", "dash", "dot", "dashdot")[number // len(colours) % 4],
        )
        for number, (label, points) in enumerate(runs.items())
    ]  # fmt: skip
    return _figure(lines, revision, "step", legend=True, yaxis={"title": {"text": title}})


def length_chart(edges: Any, counts: Any, limit: int | None) -> go.Figure:
    """Rows by their number of tokens: bars beyond `limit` in another colour, the limit as a dashed line.

    edges, counts: as `data.truncation.histogram` gives them.
    """
    colours = series_colors()
    figure = go.Figure(_figure([], "lengths", "tokens", legend=False))
    bars = list(pairwise(edges))
    beyond = [limit is not None and (start + end - 1) / 2 > limit for start, end in bars]
    figure.add_bar(
        x=[(start + end) / 2 for start, end in bars], y=list(counts), width=[end - start for start, end in bars],
        marker={"color": [colours[1] if over else colours[0] for over in beyond], "line": {"width": 0}},
        customdata=[f"{start:,}–{end - 1:,} tokens" for start, end in bars],
        hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
    )  # fmt: skip
    figure.update_layout(hovermode="closest", bargap=0.06)
    figure.update_yaxes(title="rows", rangemode="tozero", nticks=4)
    if limit is not None and limit <= edges[-1] * 1.5:
        figure.add_vline(limit, line={"color": colours[7], "width": 1.5, "dash": "dash"},
                         annotation={"text": f"limit {limit:,}", "yanchor": "top"})  # fmt: skip
    return figure


def _figure(
    lines: list[dict[str, Any]], revision: str, x_title: str | None, *, legend: bool, **axes: dict[str, Any]
) -> go.Figure:
    x = {"rangemode": "tozero", "automargin": True, **({"title": {"text": x_title}} if x_title else {})}
    layout = {
        "uirevision": revision, "showlegend": legend, "hovermode": "x unified",
        "margin": {"l": 8, "r": 8, "t": 28 if legend else 6, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {**x, **axes.get("xaxis", {})},
        "yaxis": {"automargin": True, **axes.get("yaxis", {})},
    }  # fmt: skip
    return FrozenFigure({"data": lines, "layout": layout}, _validate=False)


def _line(
    name: str, points: Curve, colour: str, *, opacity: float = 1.0, width: float = 2.0,
    markers: bool = False, dash: str = "solid", form: str = ".4g",
) -> dict[str, Any]:  # fmt: skip
    return {
        "type": "scatter", "x": points.steps, "y": points.values,
        "name": _no_markup(name), "opacity": opacity, "marker": {"size": 6},
        "mode": "lines+markers" if markers or len(points) == 1 else "lines",
        "line": {"color": colour, "width": width, "dash": dash},
        "hovertemplate": f"%{{y:{form}}}<extra>{_no_markup(name)}</extra>",
    }  # fmt: skip


def _no_markup(text: str) -> str:
    """plotly reads entities, a few HTML tags and %{...} in labels; a legend has room for so many characters."""
    line = " ".join(strip_control_characters(text).split())
    shown = line if len(line) <= MAX_LABEL_CHARACTERS else line[: MAX_LABEL_CHARACTERS - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "‹").replace(">", "›").replace("%{", "% {")

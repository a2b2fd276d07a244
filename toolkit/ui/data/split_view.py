"""The split into training and test set: row counts as a bar and as text."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from toolkit.config import Config
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import plan_split, size_problems, split_sizes, usable_count
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.system.printable import format_plural

MIN_LABELED_SHARE = 0.12
"""Share of the bar from which a part has room for its name."""

KEPT_SIDES = "Each row stays in the set that it was in before the fixes, so runs before and after can be compared"


def usable_rows(table: Table, config: Config) -> int:
    """Return the number of rows with a value in every column of the templates.

    While the templates are invalid, all rows count as usable.
    """
    try:
        renderer = renderer_of(config.data, table.columns)
    except DataError:
        return table.rows
    return usable_count(table, renderer.columns_required)


def split_problems(table: Table, config: Config) -> list[Problem]:
    """Return the problems of the split sizes for the usable rows of a table."""
    return size_problems(config, usable_rows(table, config))


def show_split_bar(table: Table, config: Config) -> None:
    """Draw one bar over all rows of the table; nothing while the sizes don't fit."""
    usable = usable_rows(table, config)
    try:
        train, test = _train_and_test_rows(table, config, usable)
    except DataError:
        return
    parts = [("Training", train, 0), ("Test", test, 1), ("Unused", usable - train - test, None)]
    parts.append(("Skipped (missing cells)", table.rows - usable, None))
    parts = [part for part in parts if part[1]]
    st.plotly_chart(
        _bar_figure(parts), config={"staticPlot": True}, key="split_bar", alt=_describe_parts(parts), height=34
    )
    st.caption(_describe_parts(parts) + (f" · {KEPT_SIDES}" if _keeps_sides(table, config) else ""))


def _keeps_sides(table: Table, config: Config) -> bool:
    return table.origin is not None and not table.held_out and (not config.data.stratify or bool(table.origin.labels))


def count_split_rows(table: Table, config: Config) -> tuple[int, int]:
    """Return the numbers of training and test rows. Raises DataError if the rows can't be split as the settings say."""
    return _train_and_test_rows(table, config, usable_rows(table, config))


def _train_and_test_rows(table: Table, config: Config, usable: int) -> tuple[int, int]:
    if not table.held_out and table.origin is None:
        return split_sizes(usable, config.data.train_size, config.data.test_size)
    plan = plan_split(table, config.data)
    return len(plan.train), len(plan.test)


def _describe_parts(parts: list[tuple[str, int, int | None]]) -> str:
    return " · ".join(f"{name}: {format_plural(rows, 'row')}" for name, rows, _ in parts)


def _bar_figure(parts: list[tuple[str, int, int | None]]) -> Any:
    colors = list(st.get_option(f"theme.{st.context.theme.type or 'light'}.chartCategoricalColors") or [])
    figure, total = go.Figure(), sum(rows for _, rows, _ in parts)
    for name, rows, slot in parts:
        color = colors[slot] if slot is not None and colors else "#9AA5A3"
        figure.add_bar(
            x=[rows],
            y=[""],
            orientation="h",
            name=name,
            marker={"color": color, "line": {"width": 0}},
            # a text that does not fit is shrunk until it can't be read; the line below has every number
            text=f" {name} {rows:,}" if rows >= MIN_LABELED_SHARE * total else "",
            insidetextfont={"size": 13},
            textposition="inside",
            insidetextanchor="start",
            textangle=0,
        )
    figure.update_layout(
        barmode="stack",
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        bargap=0,
        xaxis={"visible": False, "range": [0, total]},
        yaxis={"visible": False},
    )
    return figure

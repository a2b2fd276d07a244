"""Token lengths on the Data page: a histogram of the examples' lengths with the max sequence length."""

from __future__ import annotations

import streamlit as st
from plotly.graph_objects import Figure

from toolkit.data.doctor.truncation import (
    MAX_LENGTH_SETTING,
    RowLengths,
    find_truncated_rows,
    length_histogram,
    suggest_max_length,
    usable_row_lengths,
)
from toolkit.ui.elements import charts
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import Checkup, recount_token_lengths

_CACHED_FIGURE = "length_figure"


def show_token_lengths(checkup: Checkup) -> None:
    """Draw the histogram, or why there is none yet."""
    if checkup.lengths is not None and len(usable_row_lengths(checkup.lengths)):
        _show_histogram(checkup.lengths)
    elif checkup.counting:
        st.caption(f":material/hourglass_top: Token lengths: {escape_text(checkup.counting)}")
    elif checkup.count_error:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(
                f":material/info: The tokens could not be counted. {escape_text(checkup.count_error, 400)}",
                width="content",
            )
            st.button(
                "Try again",
                key="count_again",
                type="tertiary",
                icon=":material/refresh:",
                on_click=recount_token_lengths,
            )


def _show_histogram(lengths: RowLengths) -> None:
    limit = workspace.current_setting(MAX_LENGTH_SETTING)
    longest = int(usable_row_lengths(lengths).max())
    facts = f"99 % of the rows have at most {suggest_max_length(lengths):,} tokens. The longest row has {longest:,}."
    if isinstance(limit, int):
        truncated = find_truncated_rows(lengths, limit).size
        facts += f" Max sequence length: {limit:,} tokens; truncated rows: {truncated:,}."
    st.caption(f":material/straighten: {facts}")
    with st.expander("Tokens per row, prompt and completion", icon=":material/bar_chart:"):
        figure = _cached_figure(lengths, limit if isinstance(limit, int) else None)
        st.plotly_chart(
            figure, key="length_chart", config={"displayModeBar": False}, height=190, alt="Histogram of tokens per row"
        )


def _cached_figure(lengths: RowLengths, limit: int | None) -> Figure:
    """Return the histogram, built again only when its data or colors changed: the page refreshes every few seconds."""
    cached = st.session_state.get(_CACHED_FIGURE)
    if cached is None or cached[0] is not lengths or cached[1:3] != (limit, charts.series_colors()):
        figure = charts.length_chart(*length_histogram(lengths), limit)
        st.session_state[_CACHED_FIGURE] = cached = (lengths, limit, charts.series_colors(), figure)
    return cached[3]

"""Token lengths on screen: how long the examples are, and where the length limit cuts them."""

from __future__ import annotations

import streamlit as st
from plotly.graph_objects import Figure

from toolkit.data.doctor.token_lengths import RowLengths
from toolkit.data.doctor.truncation import (
    MAX_LENGTH_SETTING,
    find_truncated_rows,
    length_histogram,
    suggest_max_length,
    usable_row_lengths,
)
from toolkit.ui.elements import charts
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import checkup, workspace
from toolkit.ui.workspace.checkup import Checkup

_DRAWN = "length_figure"


def show_token_lengths(look: Checkup) -> None:
    """The histogram, or what it waits for."""
    if look.lengths is not None and len(usable_row_lengths(look.lengths)):
        _histogram(look.lengths)
    elif look.counting:
        st.caption(f":material/hourglass_top: Token lengths: {escape_text(look.counting)}")
    elif look.uncounted:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(
                f":material/info: The tokens were not counted. {escape_text(look.uncounted, 400)}", width="content"
            )
            st.button("Try again", key="count_again", type="tertiary", icon=":material/refresh:",
                      on_click=checkup.recount_token_lengths)  # fmt: skip


def _histogram(lengths: RowLengths) -> None:
    limit = workspace.current_setting(MAX_LENGTH_SETTING)
    whole = usable_row_lengths(lengths)
    cut = find_truncated_rows(lengths, limit).size if isinstance(limit, int) else 0
    words = [f"99 % of the rows have at most {suggest_max_length(lengths):,}, the longest has {int(whole.max()):,}"]
    if isinstance(limit, int):
        words.append(f"the limit is {limit:,}" + (f": {cut:,} answers lose their end" if cut else ""))
    st.markdown("**Tokens a row** :gray[prompt and answer together]")
    figure = _cached_figure(lengths, limit if isinstance(limit, int) else None)
    st.plotly_chart(figure, key="length_chart", config={"displayModeBar": False}, height=190,
                    alt="Rows by their number of tokens")  # fmt: skip
    st.caption("; ".join(words) + ".")


def _cached_figure(lengths: RowLengths, limit: int | None) -> Figure:
    """Made once: the page looks again every few seconds, and mostly nothing has changed."""
    held = st.session_state.get(_DRAWN)
    if held is None or held[0] is not lengths or held[1:3] != (limit, charts.series_colors()):
        drawn = charts.length_chart(*length_histogram(lengths), limit)
        st.session_state[_DRAWN] = held = (lengths, limit, charts.series_colors(), drawn)
    return held[3]

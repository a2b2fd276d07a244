"""The GGUF files of a run side by side, below the cards of its exports."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.export.export_state import ExportState
from toolkit.export.gguf_ladder import (
    LADDER_COLUMNS,
    PLAY_HINT,
    compare_gguf_files,
    describe_smallest,
    list_ladder_cells,
)
from toolkit.runs.run_dir import RunDir
from toolkit.ui.elements.escape import escape_text


def draw_ladder(run: RunDir, states: Sequence[ExportState]) -> None:
    """Draw size, speed and changed answers of the GGUF files that were made, and which is the smallest to take."""
    rungs = compare_gguf_files(run, states)
    if not rungs:
        return
    st.markdown("**GGUF files compared**")
    rows = [list_ladder_cells(rung) for rung in rungs]
    st.table({name: [row[at] for row in rows] for at, name in enumerate(LADDER_COLUMNS)})
    st.caption(escape_text(describe_smallest(rungs), 500))
    if any(rung.played is None for rung in rungs):
        st.caption(PLAY_HINT)
    for rung in rungs:
        if rung.played is not None and rung.played.problem:
            st.caption(f":red[{escape_text(rung.form.title)}: {escape_text(rung.played.problem, 500)}]")

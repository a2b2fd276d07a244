"""Measuring instead of predicting, on screen: the button, the wait, and what came out, kept for the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import streamlit as st

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.forecast.forecast import Forecast, with_measured
from toolkit.forecast.measured_run import Measured, Measuring, start_measuring
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.words import duration
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import matters

_MEASURED, _MEASURING, _FAILED = "forecast_measured", "forecast_measuring", "forecast_failed"


def with_probe(found: Forecast) -> Forecast:
    """The forecast with what was measured for these very settings, if anything was."""
    measured = cast("Mapping[str, Measured]", st.session_state.get(_MEASURED, {})).get(matters(found.config))
    return found if measured is None else with_measured(
        found, measured.peak_bytes, measured.process_bytes, measured.step_seconds
    )  # fmt: skip


def measure(found: Forecast) -> None:
    """The button, or the wait for what it began."""
    going = cast("Measuring | None", st.session_state.get(_MEASURING))
    if going is not None:
        _watch()
        return
    if not found.measured:
        st.button(
            "Measure", icon=":material/speed:", type="tertiary", key="measure", on_click=_begin, args=(found.config,),
            help="Trains two steps on the longest batch in a process of its own, and replaces the estimates.",
        )  # fmt: skip
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)


def _begin(config: Config) -> None:
    table = workspace.table()
    if table is None:
        return
    try:
        st.session_state[_MEASURING] = start_measuring(matters(config), config, table)
    except ToolkitError as error:
        st.session_state[_FAILED] = error


@st.fragment(run_every=1.0)
def _watch() -> None:
    going = cast("Measuring | None", st.session_state.get(_MEASURING))
    if going is None:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/speed: Measuring… {duration(going.seconds)}", width="stretch")
        st.button("Cancel", type="tertiary", key="measure_cancel", on_click=_cancel)
    try:
        found = going.result()
    except ToolkitError as error:
        st.session_state[_FAILED] = error
        found = None
    else:
        if found is None:
            return
        st.session_state[_MEASURED] = {**st.session_state.get(_MEASURED, {}), going.key: found}
    st.session_state.pop(_MEASURING, None)
    st.rerun()


def _cancel() -> None:
    going = cast("Measuring | None", st.session_state.pop(_MEASURING, None))
    if going is not None:
        going.end()

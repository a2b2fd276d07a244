"""Measuring memory and step time instead of predicting them: the button, the progress, and the session's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import streamlit as st

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.forecast.forecast import Forecast, with_measurement
from toolkit.forecast.measured_run import MeasuredStep, RunningMeasurement, start_measuring
from toolkit.system.printable import format_duration
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import relevant_settings

_MEASURED, _MEASURING, _FAILED = "forecast_measured", "forecast_measuring", "forecast_failed"


def add_session_measurement(found: Forecast) -> Forecast:
    """Return the forecast with this session's measurement of the same settings, if there is one."""
    results = cast("Mapping[str, MeasuredStep]", st.session_state.get(_MEASURED, {}))
    measured = results.get(relevant_settings(found.config))
    if measured is None:
        return found
    return with_measurement(found, measured.peak_bytes, measured.process_bytes, measured.step_seconds)


def draw_measure_button(found: Forecast) -> None:
    """Draw the Measure button, or the progress of the measurement that it started."""
    if st.session_state.get(_MEASURING) is not None:
        _watch_measuring()
        return
    if not found.measured:
        st.button(
            "Measure on this machine",
            icon=":material/speed:",
            type="tertiary",
            key="measure",
            on_click=_begin_measuring,
            args=(found.config,),
            help="Trains two steps on the longest batch in a separate process and replaces the estimates.",
        )
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)


def _begin_measuring(config: Config) -> None:
    table = workspace.current_table()
    if table is None:
        return
    try:
        st.session_state[_MEASURING] = start_measuring(relevant_settings(config), config, table)
    except ToolkitError as error:
        st.session_state[_FAILED] = error


@st.fragment(run_every=1.0)
def _watch_measuring() -> None:
    running = cast("RunningMeasurement | None", st.session_state.get(_MEASURING))
    if running is None:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/speed: Measuring… {format_duration(running.seconds)}", width="stretch")
        st.button("Cancel", type="tertiary", key="measure_cancel", on_click=_cancel_measuring)
    try:
        measured = running.result()
    except ToolkitError as error:
        st.session_state[_FAILED] = error
    else:
        if measured is None:
            return
        st.session_state[_MEASURED] = {**st.session_state.get(_MEASURED, {}), running.key: measured}
    st.session_state.pop(_MEASURING, None)
    st.rerun()


def _cancel_measuring() -> None:
    running = cast("RunningMeasurement | None", st.session_state.pop(_MEASURING, None))
    if running is not None:
        running.end()

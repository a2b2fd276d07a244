"""The forecast in the Start panel: memory, time, steps, disk, whether the run fits, and what would make it fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import streamlit as st

from toolkit.forecast.advice import find_memory_advice
from toolkit.forecast.forecast import Forecast
from toolkit.forecast.scene import NoForecast
from toolkit.runs.slots import count_slots
from toolkit.settings import form_layout
from toolkit.settings.form_layout import describe_value
from toolkit.system.printable import (
    about_duration,
    format_bytes,
    format_count,
    format_duration,
    format_plural,
    format_share,
)
from toolkit.ui.configure.measure_view import add_session_measurement, draw_measure_button
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import decide_trial_settings
from toolkit.ui.workspace.review import DraftReview, pick_trial_per_value

MAX_FORECAST_RUNS = 6
"""Runs of a study that are forecast: the first ones that differ in a value."""
FIT_BADGES = {
    "fits": ("Fits", ":material/check_circle:", "green"),
    "tight": ("Tight", ":material/warning:", "orange"),
    "too large": ("Too large", ":material/error:", "red"),
}
_LAST_FORECASTS = "forecast"
_LENGTH_SOURCES: dict[str, str] = {
    "counted": "Token lengths are exact: the background worker counted every row.",
    "sampled": "Token lengths are estimated from a sample of the rows, with the model's tokenizer.",
    "characters": "Token lengths are estimated from characters: the tokenizer is not on this machine yet.",
}
RunForecasts = list[Forecast] | NoForecast
"""The forecasts of the runs that a draft starts, or why there is none."""


def draw_forecast_panel(reviewed: DraftReview, found: RunForecasts) -> None:
    """Draw the forecast of the draft. A study shows the memory of its largest run and the time of all runs."""
    with st.container(border=True, gap="small"):
        if isinstance(found, NoForecast):
            st.markdown("**Forecast**")
            st.caption(escape_text(found.why, 400))
            if found.waiting:
                _retry_while_waiting()
            return
        largest = max(found, key=lambda one: one.memory.peak)
        _draw_heading(largest)
        _draw_figures(largest, found, reviewed.runs_to_start)
        _draw_advice(largest)
        _draw_details(largest)
        draw_measure_button(largest)


def forecast_runs(reviewed: DraftReview) -> RunForecasts:
    """Return forecasts of the trials; the last ones while the settings have errors.

    The tokens are counted meanwhile: a page asks once, so that all its figures agree.
    """
    last = cast("list[Forecast] | None", st.session_state.get(_LAST_FORECASTS))
    if not reviewed.trials:
        return last or NoForecast("Correct the settings to see the forecast.")
    found = [decide_trial_settings(trial).found for trial in pick_trial_per_value(reviewed.trials)[:MAX_FORECAST_RUNS]]
    known = [one for one in found if not isinstance(one, NoForecast)]
    if len(known) < len(found):
        return next(one for one in found if isinstance(one, NoForecast))
    st.session_state[_LAST_FORECASTS] = known
    return [add_session_measurement(one) for one in known]


def forecast_seconds(reviewed: DraftReview, found: RunForecasts) -> float | None:
    """Return the seconds that all runs of the draft take; None while they are not known."""
    if not reviewed.trials or isinstance(found, NoForecast):
        return None
    return _total_seconds(found, reviewed.runs_to_start)


def _total_seconds(forecasts: Sequence[Forecast], runs: int) -> float:
    """Return the seconds until all runs of a study have ended; the forecast ones stand for all of them."""
    rounds = math.ceil(runs / count_slots(workspace.current_save_dir()))
    return sum(one.seconds for one in forecasts) * rounds / len(forecasts)


def _draw_heading(found: Forecast) -> None:
    label, icon, color = FIT_BADGES[found.fit]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Forecast**", width="stretch")
        st.badge(label, icon=icon, color=color)  # type: ignore[arg-type]


def _draw_figures(found: Forecast, forecasts: Sequence[Forecast], runs: int) -> None:
    where = found.scene.gpu_name or "this machine"
    total = _total_seconds(forecasts, runs)
    steps = format_plural(found.steps, "step")
    rows = [
        ("Memory", f"**{_rough_size(found.memory.peak)}** of {format_bytes(found.scene.memory_bytes)}"),
        ("Time", f"**{about_duration(total)}** · {steps if runs == 1 else format_plural(runs, 'run')}"),
        (
            "Trains",
            f"{shorten_number(found.adapter.parameters)} of {shorten_number(found.scene.shape.parameters)} parameters",
        ),
        ("Disk", _rough_size(found.disk.download + (found.disk.total - found.disk.download) * max(runs, 1))),
    ]
    with st.container(gap="xsmall"):
        st.progress(min(1.0, found.memory.peak / found.scene.memory_bytes))
        _draw_lines(rows, 64)
    if found.fit == "tight":
        st.caption(f"The run fits only if other programs free memory on {escape_text(where)}.")


def _draw_lines(rows: Sequence[tuple[str, str]], width: int) -> None:
    """Draw (label, value) lines in small type. width: of the labels, in pixels."""
    with st.container(gap="xxsmall"):
        for label, value in rows:
            with st.container(horizontal=True, gap="small", wrap=False):
                st.markdown(f":small[:gray[{label}]]", width=width)
                st.markdown(f":small[{value}]", width="stretch")


def _rough_size(number: float) -> str:
    """Return bytes rounded to the accuracy of a forecast: "630 MiB", "1.2 GiB"."""
    value, unit = format_bytes(number).split(" ")
    return f"{float(value):.0f} {unit}" if float(value) >= 10 and unit != "GiB" else f"{value} {unit}"


def shorten_number(number: int) -> str:
    """Return a number with three digits and a decimal unit: 651264 -> "651 k", 8030261248 -> "8.03 B"."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:  # 999,885,952 is 1 B: with three digits it would be 1,000 M
            return f"{number / limit:.3g} {unit}"
    return format_count(number)


def _draw_advice(found: Forecast) -> None:
    advice = find_memory_advice(found)
    if advice is None:
        if found.fit == "too large":
            st.caption("No setting makes this run fit. Choose a smaller base model.")
        return
    changes = [
        f"{form_layout.get_field_layout(path).label} {describe_value(path, value)}"
        for path, value in advice.changes.items()
    ]
    effect = f"{_rough_size(advice.after.memory.peak)}, {about_duration(advice.after.seconds)}"
    st.button(
        "Make it fit" if advice.enough else "Reduce memory",
        icon=":material/compress:",
        width="stretch",
        key="make_it_fit",
        on_click=workspace.replace_settings,
        args=(advice.changes,),
    )
    st.caption(
        escape_text(f"{', '.join(changes)}: {effect}", 400)
        + ("." if advice.enough else ". The run still does not fit: choose a smaller base model as well.")
    )


def _draw_details(found: Forecast) -> None:
    details = st.expander(
        "Memory and time in detail", key="forecast_details", icon=":material/tune:", on_change="rerun"
    )
    if not details.open:
        return
    memory, load, times = found.memory, found.load, found.times
    with details:
        parts = [
            ("Process", memory.process),
            ("Base model", memory.weights),
            ("Adapter", memory.adapter),
            ("Gradients", memory.gradients),
            ("Optimizer", memory.optimizer),
            ("Activations", memory.activations),
            ("Logits and loss", memory.logits),
            ("Compiled kernels", memory.kernels),
        ]
        _draw_lines([(name, _rough_size(part)) for name, part in parts if part], 120)
        batch = f"{format_plural(load.rows, 'row')} of up to {format_plural(load.longest, 'token')}"
        no_padding = found.real_share == 1
        padding = (
            "There is no padding." if no_padding else f"Padding: {format_share(1 - found.real_share)} of all tokens."
        )
        st.caption(f"Peak memory is reached in the largest batch: {batch}. {padding}")
        phases = [
            ("Starting", times.starting),
            ("Training", times.training),
            (format_plural(found.evaluations, "evaluation"), times.evaluating),
            ("Final save and test answers", times.ending),
        ]
        _draw_lines([(name, format_duration(max(seconds, 1.0))) for name, seconds in phases if seconds], 120)
        for line in _describe_basis(found):
            st.caption(line)


def _describe_basis(found: Forecast) -> list[str]:
    """Return sentences on what the forecast is based on."""
    lines = [_LENGTH_SOURCES[found.scene.lengths.source]]
    if found.measured:
        lines.append("Memory and step time were measured with two steps on the largest batch.")
    elif found.correction.runs:
        runs = format_plural(found.correction.runs, "most similar run")
        lines.append(f"Memory and time are adjusted to the {runs} on this machine.")
    else:
        lines.append("No comparable run has finished on this machine yet, so the time may be off by 50 %.")
    if found.disk.download:
        lines.append(f"The base model is downloaded first: {_rough_size(found.disk.download)}.")
    return lines


@st.fragment(run_every=1.0)
def _retry_while_waiting() -> None:
    """Rerun the page every third second, five times at most, until what the forecast lacks has arrived."""
    if st.session_state.setdefault("forecast_waits", 0) < 15:
        st.session_state["forecast_waits"] += 1
        if st.session_state["forecast_waits"] % 3 == 0:
            st.rerun()

"""The forecast beside the form: memory, time, steps, disk, whether it fits, and what would make it fit.

Moves with every setting. Draws only: what a run takes is `toolkit/forecast`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import streamlit as st

from toolkit.forecast.advice import MemoryAdvice, find_memory_advice
from toolkit.forecast.forecast import Forecast
from toolkit.forecast.scene import NoForecast
from toolkit.settings import form_layout
from toolkit.ui.configure.measure_view import add_session_measurement, draw_measure_button
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_bytes, format_count, format_duration, format_plural, format_share
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.decided_settings import decide_trial_settings
from toolkit.ui.workspace.review import DraftReview, pick_trial_per_value, value_label

MAX_FORECAST_RUNS = 6
"""Runs of a study that are forecast, those that differ first."""
_FITS = {
    "fits": ("Fits", ":material/check_circle:", "green"),
    "tight": ("Tight", ":material/warning:", "orange"),
    "too large": ("Too large", ":material/error:", "red"),
}
_LAST_FORECASTS = "forecast"


def draw_forecast_panel(reviewed: DraftReview) -> None:
    """The forecast of the draft; of the largest and of all runs where it is a study."""
    found = _forecast_runs(reviewed)
    with st.container(border=True, gap="small"):
        if isinstance(found, NoForecast):
            st.markdown("**Forecast**")
            st.caption(escape_text(found.why, 400))
            if found.waiting:
                _retry_while_waiting()
            return
        largest = max(found, key=lambda one: one.memory.peak)
        _draw_heading(largest)
        _draw_figures(largest, found, reviewed.runs)
        _draw_advice(largest)
        _draw_details(largest)
        draw_measure_button(largest)


def _forecast_runs(reviewed: DraftReview) -> list[Forecast] | NoForecast:
    """Forecasts of the runs; the last good ones while the settings have errors."""
    kept = cast("list[Forecast] | None", st.session_state.get(_LAST_FORECASTS))
    if not reviewed.variants:
        return kept or NoForecast("It appears once the settings can be used.")
    found = [
        decide_trial_settings(variant).found for variant in pick_trial_per_value(reviewed.variants)[:MAX_FORECAST_RUNS]
    ]
    known = [one for one in found if not isinstance(one, NoForecast)]
    if len(known) < len(found):
        return next(one for one in found if isinstance(one, NoForecast))
    st.session_state[_LAST_FORECASTS] = known
    return [add_session_measurement(one) for one in known]


def _draw_heading(found: Forecast) -> None:
    word, icon, colour = _FITS[found.fit]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Forecast**", width="stretch")
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]


def _draw_figures(found: Forecast, every: Sequence[Forecast], runs: int) -> None:
    where = found.scene.gpu_name or "this machine"
    total = sum(one.seconds for one in every) * max(runs, 1) / len(every)
    steps = format_plural(found.steps, "step")
    rows = [
        ("Memory", f"**{_rough_size(found.memory.peak)}** of {format_bytes(found.scene.memory_bytes)}"),
        ("Time", f"**{_about_duration(total)}** · {steps if runs <= 1 else format_plural(runs, 'run')}"),
        (
            "Trains",
            f"{shorten_number(found.adapter.parameters)} of {shorten_number(found.scene.shape.parameters)} parameters",
        ),
        ("Disk", _rough_size(found.disk.total)),
    ]
    with st.container(gap="xsmall"):
        st.progress(min(1.0, found.memory.peak / found.scene.memory_bytes))
        _draw_lines(rows, 64)
    if found.fit == "tight":
        st.caption(f"It fits once other programs on {escape_text(where)} give memory back.")


def _draw_lines(rows: Sequence[tuple[str, str]], width: int) -> None:
    """Label and words, a line each, in small type. width: of the labels, in pixels."""
    with st.container(gap="xxsmall"):
        for label, words in rows:
            with st.container(horizontal=True, gap="small", wrap=False):
                st.markdown(f":small[:gray[{label}]]", width=width)
                st.markdown(f":small[{words}]", width="stretch")


def _about_duration(seconds: float) -> str:
    """The duration with as many digits as a forecast deserves."""
    if seconds >= 3600:
        return f"about {format_duration(round(seconds / 600) * 600).removesuffix(' 00 min')}"
    if seconds < 90:
        return f"about {format_duration(round(seconds / 5) * 5 or 5)}"
    return f"about {format_duration(round(seconds / 60) * 60).removesuffix(' 00 s')}"


def _rough_size(number: float) -> str:
    """Bytes with no more digits than a forecast deserves: "630 MiB", "1.2 GiB"."""
    value, unit = format_bytes(number).split(" ")
    return f"{float(value):.0f} {unit}" if float(value) >= 10 and unit != "GiB" else f"{value} {unit}"


def shorten_number(number: int) -> str:
    """651264 -> "651 k", 8030261248 -> "8.03 B"."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return format_count(number)


def _draw_advice(found: Forecast) -> None:
    offered = find_memory_advice(found)
    if offered is None:
        if found.fit == "too large":
            st.caption("No setting makes it fit: choose a smaller base model.")
        return
    changes = [
        f"{form_layout.get_field_layout(path).label} {value_label(path, value)}"
        for path, value in offered.changes.items()
    ]
    words = f"{', '.join(changes)}: {_rough_size(offered.after.memory.peak)}, {_about_duration(offered.after.seconds)}"
    st.button(
        "Make it fit" if offered.enough else "Come nearer", icon=":material/compress:", width="stretch",
        key="make_it_fit", on_click=_apply_advice, args=(offered,),
    )  # fmt: skip
    st.caption(
        escape_text(words, 400) + ("." if offered.enough else ". That is still too much: choose a smaller base model.")
    )


def _apply_advice(offered: MemoryAdvice) -> None:
    for path, value in offered.changes.items():
        workspace.set_setting(path, value)


def _draw_details(found: Forecast) -> None:
    fold = st.expander("What takes memory and time", key="forecast_details", icon=":material/tune:", on_change="rerun")
    if not fold.open:
        return
    memory, load, times = found.memory, found.load, found.times
    with fold:
        parts = [
            ("The process itself", memory.process), ("Base model", memory.weights), ("Adapter", memory.adapter),
            ("Gradients", memory.gradients), ("Optimizer", memory.optimizer), ("Activations", memory.activations),
            ("Logits and loss", memory.logits), ("Compiled kernels", memory.kernels),
        ]  # fmt: skip
        _draw_lines([(name, _rough_size(part)) for name, part in parts if part], 120)
        batch = f"{format_plural(load.rows, 'row')} of up to {format_plural(load.longest, 'token')}"
        padding = (
            "No padding is computed."
            if found.real_share == 1
            else f"{format_share(found.real_share)} of all tokens are no padding."
        )
        st.caption(f"The largest batch decides: {batch}. {padding}")
        spent = [("Starting", times.starting), ("Training", times.training),
                 (f"{format_plural(found.evaluations, 'test')} on the way", times.evaluating),
                 ("Saving and answers", times.ending)]  # fmt: skip
        _draw_lines([(name, format_duration(max(part, 1.0))) for name, part in spent if part], 120)
        for line in _reasons(found):
            st.caption(line)


def _reasons(found: Forecast) -> list[str]:
    """Where the numbers come from."""
    lines = []
    if not found.scene.lengths.counted:
        lines.append("The tokenizer is not on this machine yet: lengths follow from characters.")
    if found.measured:
        lines.append("Memory and the time of a step were measured with two steps on the largest batch.")
    elif found.correction.runs:
        runs = format_plural(found.correction.runs, "run")
        lines.append(f"Corrected by the {runs} on this machine most like it: memory, start, steps and answers.")
    else:
        lines.append("Not corrected by any run on this machine yet: the time may be off by half.")
    if found.disk.download:
        lines.append(f"The base model is downloaded first: {_rough_size(found.disk.download)}.")
    return lines


def _retry_while_waiting() -> None:
    @st.fragment(run_every=1.0)
    def wait() -> None:
        if st.session_state.setdefault("forecast_waits", 0) < 15:
            st.session_state["forecast_waits"] += 1
            if st.session_state["forecast_waits"] % 3 == 0:
                st.rerun()

    wait()

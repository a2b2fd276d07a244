"""One run on the Runs page: state, figures, curves and log, refreshed every second or two while the run is active.

A refresh costs the browser more than the app, and both may share the machine with the training. Curves therefore
refresh half as often as the state, and a run with much time left refreshes half as often as one that is about to end.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from toolkit.lifecycle.claims import read_claim
from toolkit.lifecycle.queue import list_queued_runs
from toolkit.lifecycle.slots import explain_wait
from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.events import is_finite_number
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.slots import count_slots
from toolkit.runs.status import UNFINISHED, RunStatus, read_open_statuses, read_run_status
from toolkit.services.fork_client import NO_IMPORTS
from toolkit.services.spare_process import read_import_progress
from toolkit.system.foreign_files import open_regular_file
from toolkit.system.printable import format_count, format_duration
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.thinning import MAX_POINTS_SMALL, whole_strides
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.frame.status_strip import SLOW_REFRESH_FROM_S
from toolkit.ui.frame.viewers import slow_down_refreshes
from toolkit.ui.runs.film_view import chosen_sample_step, draw_sample_outputs
from toolkit.ui.runs.run_actions import draw_stop_buttons
from toolkit.ui.runs.run_outcome import draw_figures, draw_run_end
from toolkit.ui.workspace.run_facts import read_run_summary

RUN_REFRESH_SECONDS, LONG_RUN_REFRESH_SECONDS = 1.0, 2.0
LOSS_CURVES = ("loss", "eval_loss")
CURVES_TAB, LOG_TAB = ":material/show_chart: Curves", ":material/terminal: Log"
AUTO_RECOVERY_NOTES = {
    True: ":material/autorenew: Auto-recovery is on. After a crash, the run continues from its last checkpoint; when "
    "memory runs out, with a smaller batch. If the loss becomes NaN, the run stops. The queue continues.",
    False: ":material/do_not_disturb_on: Auto-recovery is off. After a crash, the run waits until you resume it.",
}
LOG_BYTES = 20_000
"""Bytes read from the end of the log, enough for LOG_LINES lines."""
LOG_LINES = 60


def draw_live_run(run: RunDir) -> None:
    """Draw state, figures, curves and log of a run in two fragments, so that the rest of the page does not refresh."""
    status = read_run_status(run)
    interval = run_refresh_seconds(status) if status.state in UNFINISHED else None
    factor = slow_down_refreshes()
    every = interval and interval * factor
    st.fragment(_draw_status, run_every=every, key=f"run_{run.id}")(run.path, status.state, interval, factor)
    st.fragment(_draw_curves_and_log, run_every=every and 2 * every, key=f"curves_{run.id}")(run.path)


def run_refresh_seconds(status: RunStatus, current: float = RUN_REFRESH_SECONDS) -> float:
    """Return the seconds between two refreshes of an active run.

    current: the present value; it is kept until much remaining time is predicted, so that the interval changes once.
    """
    return (
        LONG_RUN_REFRESH_SECONDS
        if status.remaining_s is not None and status.remaining_s > SLOW_REFRESH_FROM_S
        else current
    )


def _draw_status(path: Path, drawn_state: str, interval: float | None, factor: int) -> None:
    with error_boundary():
        run = RunDir(path)
        status = read_run_status(run)
        if status.state != drawn_state:
            st.rerun()  # the rest of the page still shows the previous state
        if interval is not None and run_refresh_seconds(status, interval) != interval:
            st.rerun()  # a fragment can't change its own interval; happens once at most, soon after the first steps
        if interval is not None and slow_down_refreshes() != factor:
            st.rerun()
        _draw_headline(run, status)
        draw_run_end(run, status)
        if not _logged_nothing(status):
            draw_figures(status)


def _draw_curves_and_log(path: Path) -> None:
    with error_boundary():
        run = RunDir(path)
        status = read_run_status(run)
        # a run that ended before its first figure has only a log
        curve_tab, log_tab = st.tabs([CURVES_TAB, LOG_TAB], default=LOG_TAB if _logged_nothing(status) else CURVES_TAB)
        with curve_tab:
            _draw_curves(run, status)
        with log_tab:
            _draw_log(run)


def _logged_nothing(status: RunStatus) -> bool:
    return status.has_ended and not (status.last or status.scores or status.prepared)


def _draw_headline(run: RunDir, status: RunStatus) -> None:
    label, icon, color = STATE_LABELS[status.state]
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(label, icon=icon, color=color)  # type: ignore[arg-type]
        st.markdown(" · ".join(_headline_facts(run, status)) or " ", width="content")
    with right:
        draw_stop_buttons(run, status)
    if status.state in UNFINISHED:
        st.progress(_share_done(run, status))
        st.caption(AUTO_RECOVERY_NOTES[bool(read_run_summary(run).config.get("autopilot", True))])


def _share_done(run: RunDir, status: RunStatus) -> float:
    is_next = status.state == "queued" and not _count_runs_ahead(run) and not _active_runs(run)
    imports = read_import_progress(run.save_dir) if is_next else NO_IMPORTS
    return imports.done / imports.steps if imports.steps else status.fraction


def _headline_facts(run: RunDir, status: RunStatus) -> list[str]:
    if status.state == "queued":
        return [_describe_queue_position(run)]
    phase = status.phase or ("starting the worker" if status.state == "starting" else "")
    if status.state == "starting" and (read_run_summary(run).config.get("num_machines") or 1) > 1:
        phase = "waits for the other machines of the run"
    parts = [escape_text(phase)] if phase else []
    if status.total_steps:
        parts.append(f"step {format_count(status.step)} of {format_count(status.total_steps)}")
        parts.append(f"epoch {round(status.epoch, 2):g} of {status.epochs:g}")
    if status.elapsed_s:
        parts.append(f"{format_duration(status.elapsed_s)} elapsed")
    if status.remaining_s:
        parts.append(f"about {format_duration(status.remaining_s)} left")
    claim = read_claim(run, status.coming if status.is_active else max(1, status.attempt))
    if claim is not None and claim.where:
        parts.append(escape_text(claim.where))
    return parts


def _describe_queue_position(run: RunDir) -> str:
    ahead = _count_runs_ahead(run)
    if ahead:
        return f"number {ahead + 1} in the queue"
    waits = explain_wait(run)
    if waits:
        return f"next in the queue, {waits}"
    active = _active_runs(run) if count_slots(run.save_dir) == 1 else []
    if active:
        return f"next in the queue, after {escape_text(read_run_summary(active[0]).name, 60)}"
    imports = read_import_progress(run.save_dir)
    if not imports.steps:
        return "first in the queue: the worker is about to start"
    return f"loading {escape_text(imports.library)} ({imports.done + 1} of {imports.steps})"


def _count_runs_ahead(run: RunDir) -> int:
    queued = [other.id for other in list_queued_runs(run.save_dir)]
    return queued.index(run.id) if run.id in queued else 0


def _active_runs(run: RunDir) -> list[RunDir]:
    return [other for other, status in read_open_statuses(list_runs(run.save_dir)) if status.is_active]


def _draw_curves(run: RunDir, status: RunStatus) -> None:
    curves, is_active = read_run_curves(run.events_path), status.state in UNFINISHED
    if not curves:
        reason = (
            "No curves yet: the first data point is logged after the first steps." if is_active else "No curves logged."
        )
        st.caption(f":material/show_chart: {reason}")
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.header("Loss by step", anchor=False, width="content")
        with st.popover("Chart options", icon=":material/tune:", type="tertiary"):
            smoothing = st.slider(
                "Smoothing", 0.0, 0.98, 0.6, 0.02, key="smoothing", width=240, persist_state="session"
            )
            log_scale = st.toggle("Log scale", key="log_scale", persist_state="session")
    mark = _marked_step(run, status)
    # a run that is over is drawn with all its points: it may have ended with a spike
    losses = {
        name: whole_strides(curves[name]) if is_active else curves[name] for name in LOSS_CURVES if name in curves
    }
    st.plotly_chart(
        charts.reuse_figure("loss", charts.loss_chart, losses, smoothing, run.id, log_scale, mark, _best_point(status)),
        key=f"loss_{run.id}",
        config=charts.PLOTLY_CONFIG,
        height=320,
        alt="Loss by step",
    )
    draw_sample_outputs(run)
    small = [entry for entry in charts.SMALL_CHARTS if curves.get(entry[0])]
    for (name, title, factor, form), column in zip(small, st.columns(len(small) or 1), strict=False):
        with column:
            st.caption(title)
            curve = whole_strides(curves[name], MAX_POINTS_SMALL) if is_active else curves[name]
            st.plotly_chart(
                charts.reuse_figure(name, charts.small_chart, curve, factor, form, run.id),
                key=f"{name}_{run.id}",
                config=charts.SMALL_PLOTLY_CONFIG,
                height=170,
                alt=f"{title} by step",
            )


def _marked_step(run: RunDir, status: RunStatus) -> tuple[int, str] | None:
    """Return the step that the chart marks, with its label: where training diverged, or the sample outputs below."""
    if status.broke_at is not None:
        return status.broke_at, f"diverged at step {status.broke_at:,}"
    step = chosen_sample_step(run)
    return None if step is None else (step, f"outputs below: step {step:,}")


def _best_point(status: RunStatus) -> tuple[int, float] | None:
    if not is_finite_number(status.best.get("step")) or not is_finite_number(status.best.get("eval_loss")):
        return None
    return int(status.best["step"]), float(status.best["eval_loss"])


def _draw_log(run: RunDir) -> None:
    text = read_last_log_lines(run.log_path)
    if not text:
        st.caption("The log is empty.")
        return
    st.code(text, language=None, wrap_lines=True, height=320)


def read_last_log_lines(path: Path) -> str:
    """Return the last LOG_LINES lines of a text file; "" if it does not exist. Invalid UTF-8 is shown as escapes."""
    if not path.exists():
        return ""
    try:
        with open_regular_file(path) as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode("utf-8", errors="backslashreplace").rstrip("\r\n")
    except OSError as error:
        return f"The log can't be read: {error.strerror}."
    # a progress bar rewrites its line after carriage returns: only its last state counts
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")[-LOG_LINES:])

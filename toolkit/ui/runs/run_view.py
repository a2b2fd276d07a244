"""One run on screen: what it is doing, its figures and its curves. Ticks while the run lives, every second or two.

Each tick costs the browser more than the app, and both may sit on the machine that trains: what changes slowly is drawn
less often, and a run whose end is far is looked at less often.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from toolkit.lifecycle.queue import list_queued_runs
from toolkit.runs.event_facts import read_run_curves
from toolkit.runs.events import is_finite_number
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import UNFINISHED, RunStatus, read_run_status
from toolkit.services.spare_process import read_import_progress
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.thinning import MAX_POINTS_SMALL, whole_strides
from toolkit.ui.elements.words import (
    STATE_LABELS,
    format_bytes,
    format_count,
    format_duration,
    format_figure,
    format_plural,
    format_share,
)
from toolkit.ui.frame.status_strip import SLOW_REFRESH_FROM_S
from toolkit.ui.runs.film_view import chosen_sample_step, draw_sample_outputs
from toolkit.ui.runs.run_actions import draw_stop_buttons
from toolkit.ui.runs.safety_lines import describe_resume, safety_lines
from toolkit.ui.workspace.run_facts import read_run_summary

RUN_REFRESH_SECONDS, LONG_RUN_REFRESH_SECONDS = 1.0, 2.0
LOSS_CURVES = ("loss", "eval_loss")
CURVES_TAB, LOG_TAB = ":material/show_chart: Curves", ":material/terminal: Log"
AUTO_RECOVERY_NOTES = {
    True: ":material/autorenew: Autopilot: after a crash the run goes on by itself from its last checkpoint; out of "
    "memory, with fewer rows at a time. A loss that is no number stops it, and a run that fails holds up no other.",
    False: ":material/do_not_disturb_on: The autopilot is off: a run that dies waits for you.",
}
LOG_BYTES = 20_000
LOG_LINES = 60
FIGURE_HELP = {
    "Exact match": "Held-out rows that the adapter answers, character by character, as expected.",
    "Base model": "The same rows answered by the base model, without what was learned.",
}


def draw_live_run(run: RunDir) -> None:
    """Status, figures, curves and log of a run; fragments of their own, so that the page around them stays still."""
    status = read_run_status(run)
    period = run_refresh_seconds(status) if status.state in UNFINISHED else None
    st.fragment(_draw_status, run_every=period, key=f"run_{run.id}")(run.path, status.state, period)
    st.fragment(_draw_curves_and_log, run_every=period and 2 * period, key=f"curves_{run.id}")(run.path)


def run_refresh_seconds(status: RunStatus, drawn: float = RUN_REFRESH_SECONDS) -> float:
    """Seconds from one look at a living run to the next. drawn: now, kept until the end is known to be far."""
    return (
        LONG_RUN_REFRESH_SECONDS
        if status.remaining_s is not None and status.remaining_s > SLOW_REFRESH_FROM_S
        else drawn
    )


def _draw_status(path: Path, state_drawn: str, drawn: float | None) -> None:
    with error_boundary():
        run = RunDir(path)
        status = read_run_status(run)
        if status.state != state_drawn:
            st.rerun()  # the buttons and the list around this fragment belong to the other state
        if drawn is not None and run_refresh_seconds(status, drawn) != drawn:
            st.rerun()  # once at most, soon after the first steps: a tick can't change its own period
        _draw_headline(run, status)
        _draw_outcome(status)
        if not _logged_nothing(status):
            _draw_figures(status)


def _draw_curves_and_log(path: Path) -> None:
    with error_boundary():
        run = RunDir(path)
        status = read_run_status(run)
        # a run that ended before its first figure has only its log to show
        curve_tab, log_tab = st.tabs([CURVES_TAB, LOG_TAB], default=LOG_TAB if _logged_nothing(status) else CURVES_TAB)
        with curve_tab:
            _draw_curves(run, status)
        with log_tab:
            _draw_log(run)


def _logged_nothing(status: RunStatus) -> bool:
    return status.has_ended and not (status.last or status.scores or status.prepared)


def _draw_headline(run: RunDir, status: RunStatus) -> None:
    word, icon, colour = STATE_LABELS[status.state]
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
        st.markdown(" · ".join(_facts_in_words(run, status)) or " ", width="content")
    with right:
        draw_stop_buttons(run, status)
    if status.state in UNFINISHED:
        st.progress(_share_done(run, status))
        st.caption(AUTO_RECOVERY_NOTES[bool(read_run_summary(run).config.get("autopilot", True))])


def _share_done(run: RunDir, status: RunStatus) -> float:
    first = status.state == "queued" and not _count_runs_ahead(run) and not _active_runs(run)
    done, steps = read_import_progress(run.save_dir) if first else (0, 0)
    return done / steps if steps else status.fraction


def _facts_in_words(run: RunDir, status: RunStatus) -> list[str]:
    if status.state == "queued":
        return [_place_in_queue(run)]
    parts = [escape_text(status.phase)] if status.phase else []
    if status.total_steps:
        parts.append(f"step {format_count(status.step)} of {format_count(status.total_steps)}")
        parts.append(f"epoch {status.epoch:.2f} of {status.epochs:g}")
    if status.elapsed_s:
        parts.append(f"{format_duration(status.elapsed_s)} elapsed")
    if status.remaining_s:
        parts.append(f"about {format_duration(status.remaining_s)} left")
    return parts


def _place_in_queue(run: RunDir) -> str:
    place = _count_runs_ahead(run)
    if place:
        return f"number {place + 1} in the queue"
    going = _active_runs(run)
    if going:
        return f"next in the queue, after {escape_text(read_run_summary(going[0]).name, 60)}"
    done, steps = read_import_progress(run.save_dir)
    return f"begins once the training libraries are loaded: {done} of {steps}" if steps else "next in the queue"


def _count_runs_ahead(run: RunDir) -> int:
    waiting = [queued.id for queued in list_queued_runs(run.save_dir)]
    return waiting.index(run.id) if run.id in waiting else 0


def _active_runs(run: RunDir) -> list[RunDir]:
    return [other for other in list_runs(run.save_dir) if read_run_status(other).is_active]


def _draw_outcome(status: RunStatus) -> None:
    if status.state in ("failed", "interrupted"):
        body = escape_lines(status.message) or "The run ended without a word."
        show = st.error if status.state == "failed" else st.warning
        show(f"{body}  \n{escape_lines(status.hint)}" if status.hint else body, icon=STATE_LABELS[status.state][1])
        if status.trace:
            with st.expander("Where it happened", icon=":material/troubleshoot:"):
                st.code(status.trace, language=None, wrap_lines=True)
    elif status.state == "stopped" and status.message:
        st.info(escape_lines(status.message), icon=STATE_LABELS["stopped"][1])
    elif status.state in ("queued", "starting") and status.attempt and (status.message or status.state == "queued"):
        st.info(f"{escape_lines(status.message)}  \n{describe_resume(status)}".strip(), icon=":material/autorenew:")
    for line in safety_lines(status):
        st.caption(line)
    for warning in status.warnings[-5:]:
        st.caption(f":orange[:material/warning:] {escape_text(warning, 500)}")


def _draw_figures(status: RunStatus) -> None:
    last, prepared = status.last, status.prepared
    rows = (
        f"{format_count(prepared.get('train_rows'))} / {format_count(prepared.get('test_rows'))}" if prepared else "–"
    )
    plain_figures = (
        ("Training loss", format_figure(last.get("loss"))),
        ("Test loss", format_figure(last.get("eval_loss"))),
        ("Tokens per second", format_count(_round_figure(last.get("tokens_per_second")))),
        ("Memory", format_bytes(last.get("gpu_memory_bytes") or last.get("memory_bytes"))),
        ("Rows, train / test", rows),
    )
    grid = st.grid(min_column_width=140)
    for name, value in (*_exact_match(status.scores), *plain_figures):
        with grid.cell():
            st.metric(name, value, border=True, height="stretch", help=FIGURE_HELP.get(name))
    dropped, cut = prepared.get("dropped") or 0, prepared.get("truncated_rows") or 0
    if dropped or cut:
        st.caption(
            f":orange[:material/warning:] {format_plural(dropped, 'row')} left out for missing cells, "
            f"{format_plural(cut, 'row')} cut to the maximum sequence length."
        )


def _round_figure(value: float | None) -> int | None:
    return None if value is None else round(value)


def _exact_match(scores: dict[str, float]) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("Exact match", format_share(scores.get("exact_match"))), (
        "Base model",
        format_share(scores.get("exact_match_base")),
    )


def _draw_curves(run: RunDir, status: RunStatus) -> None:
    found, living = read_run_curves(run.events_path), status.state in UNFINISHED
    if not found:
        waiting = "The first point appears after the first steps." if living else "It logged no points."
        st.caption(f":material/show_chart: No curves yet. {waiting}")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="large"):
        smoothing = st.slider("Smoothing", 0.0, 0.98, 0.6, 0.02, key="smoothing", width=240, persist_state="session")
        log_scale = st.toggle("Log scale", key="log_scale", persist_state="session")
    marked = chosen_sample_step(run) if status.broke_at is None else status.broke_at
    # of a run that is over nothing is left out: it may have ended with a spike
    losses = {name: whole_strides(found[name]) if living else found[name] for name in LOSS_CURVES if name in found}
    st.plotly_chart(
        charts.reuse_figure("loss", charts.loss_chart, losses, smoothing, run.id, log_scale, marked, _best_point(status)),
        key=f"loss_{run.id}", config=charts.PLOTLY_CONFIG, height=320, alt="Loss by step",
    )  # fmt: skip
    draw_sample_outputs(run)
    small = [entry for entry in charts.SMALL_CHARTS if found.get(entry[0])]
    for (name, title, factor, form), column in zip(small, st.columns(len(small) or 1), strict=False):
        with column:
            st.caption(title)
            curve = whole_strides(found[name], MAX_POINTS_SMALL) if living else found[name]
            st.plotly_chart(
                charts.reuse_figure(name, charts.small_chart, curve, factor, form, run.id),
                key=f"{name}_{run.id}", config=charts.PLOTLY_CONFIG, height=170, alt=f"{title} by step",
            )  # fmt: skip


def _best_point(status: RunStatus) -> tuple[int, float] | None:
    if not is_finite_number(status.best.get("step")) or not is_finite_number(status.best.get("eval_loss")):
        return None
    return int(status.best["step"]), float(status.best["eval_loss"])


def _draw_log(run: RunDir) -> None:
    text = read_last_log_lines(run.log_path)
    if not text:
        st.caption("The worker has written nothing yet.")
        return
    st.code(text, language=None, wrap_lines=True, height=320)


def read_last_log_lines(path: Path) -> str:
    """The last lines of a text file; "" when there is none. Bytes that are no UTF-8 are shown as such."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="backslashreplace").rstrip("\r\n")
    # a progress bar rewrites its line with carriage returns: its last state is the line
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")[-LOG_LINES:])

"""One run on screen: what it is doing, its figures and its curves. Ticks while the run lives, every second or two.

Each tick costs the browser more than the app, and both may sit on the machine that trains: what changes slowly is drawn
less often, and a run whose end is far is looked at less often.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from toolkit.lifecycle.queue import queue
from toolkit.runs.events import is_number
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import RunStatus, read_status
from toolkit.runs.told import curves
from toolkit.services.spare_process import importing
from toolkit.ui.elements import charts
from toolkit.ui.elements.error_boundary import boundary
from toolkit.ui.elements.escape import plain, plain_lines
from toolkit.ui.elements.thinning import FEW_POINTS, settled
from toolkit.ui.elements.words import LIVING, STATES, count, duration, figure, plural, share, size
from toolkit.ui.frame.status_strip import FAR_S
from toolkit.ui.runs.film_view import chosen_step, film_strip
from toolkit.ui.runs.run_actions import stop_buttons
from toolkit.ui.runs.safety_lines import goes_on, safety_lines
from toolkit.ui.workspace.run_facts import facts

OFTEN_S, SELDOM_S = 1.0, 2.0
LOSSES = ("loss", "eval_loss")
CURVES, LOG = ":material/show_chart: Curves", ":material/terminal: Log"
AUTOPILOT = {
    True: ":material/autorenew: Autopilot: after a crash the run goes on by itself from its last checkpoint; out of "
    "memory, with fewer rows at a time. A loss that is no number stops it, and a run that fails holds up no other.",
    False: ":material/do_not_disturb_on: The autopilot is off: a run that dies waits for you.",
}
LOG_BYTES = 20_000
LOG_LINES = 60
EXPLAINED = {
    "Exact match": "Held-out rows that the adapter answers, character by character, as expected.",
    "Base model": "The same rows answered by the base model, without what was learned.",
}


def live_view(run: RunDir) -> None:
    """Status, figures, curves and log of a run; fragments of their own, so that the page around them stays still."""
    status = read_status(run)
    period = pace(status) if status.state in LIVING else None
    st.fragment(_now, run_every=period, key=f"run_{run.id}")(run.path, status.state, period)
    st.fragment(_so_far, run_every=period and 2 * period, key=f"curves_{run.id}")(run.path)


def pace(status: RunStatus, drawn: float = OFTEN_S) -> float:
    """Seconds from one look at a living run to the next. drawn: now, kept until the end is known to be far."""
    return SELDOM_S if status.remaining_s is not None and status.remaining_s > FAR_S else drawn


def _now(path: Path, state_drawn: str, drawn: float | None) -> None:
    with boundary():
        run = RunDir(path)
        status = read_status(run)
        if status.state != state_drawn:
            st.rerun()  # the buttons and the list around this fragment belong to the other state
        if drawn is not None and pace(status, drawn) != drawn:
            st.rerun()  # once at most, soon after the first steps: a tick can't change its own period
        _headline(run, status)
        _outcome(status)
        if not _silent(status):
            _figures(status)


def _so_far(path: Path) -> None:
    with boundary():
        run = RunDir(path)
        status = read_status(run)
        # a run that ended before its first figure has only its log to show
        curve_tab, log_tab = st.tabs([CURVES, LOG], default=LOG if _silent(status) else CURVES)
        with curve_tab:
            _curves(run, status)
        with log_tab:
            _log(run)


def _silent(status: RunStatus) -> bool:
    return status.over and not (status.last or status.scores or status.prepared)


def _headline(run: RunDir, status: RunStatus) -> None:
    word, icon, colour = STATES[status.state]
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
        st.markdown(" · ".join(_facts_in_words(run, status)) or " ", width="content")
    with right:
        stop_buttons(run, status)
    if status.state in LIVING:
        st.progress(_share_done(run, status))
        st.caption(AUTOPILOT[bool(facts(run).config.get("autopilot", True))])


def _share_done(run: RunDir, status: RunStatus) -> float:
    first = status.state == "queued" and not _ahead(run) and not _going(run)
    done, steps = importing(run.save_dir) if first else (0, 0)
    return done / steps if steps else status.fraction


def _facts_in_words(run: RunDir, status: RunStatus) -> list[str]:
    if status.state == "queued":
        return [_place_in_queue(run)]
    parts = [plain(status.phase)] if status.phase else []
    if status.total_steps:
        parts.append(f"step {count(status.step)} of {count(status.total_steps)}")
        parts.append(f"epoch {status.epoch:.2f} of {status.epochs:g}")
    if status.elapsed_s:
        parts.append(f"{duration(status.elapsed_s)} elapsed")
    if status.remaining_s:
        parts.append(f"about {duration(status.remaining_s)} left")
    return parts


def _place_in_queue(run: RunDir) -> str:
    place = _ahead(run)
    if place:
        return f"number {place + 1} in the queue"
    going = _going(run)
    if going:
        return f"next in the queue, after {plain(facts(going[0]).name, 60)}"
    done, steps = importing(run.save_dir)
    return f"begins once the training libraries are loaded: {done} of {steps}" if steps else "next in the queue"


def _ahead(run: RunDir) -> int:
    waiting = [queued.id for queued in queue(run.save_dir)]
    return waiting.index(run.id) if run.id in waiting else 0


def _going(run: RunDir) -> list[RunDir]:
    return [other for other in list_runs(run.save_dir) if read_status(other).living]


def _outcome(status: RunStatus) -> None:
    if status.state in ("failed", "interrupted"):
        body = plain_lines(status.message) or "The run ended without a word."
        show = st.error if status.state == "failed" else st.warning
        show(f"{body}  \n{plain_lines(status.hint)}" if status.hint else body, icon=STATES[status.state][1])
        if status.trace:
            with st.expander("Where it happened", icon=":material/troubleshoot:"):
                st.code(status.trace, language=None, wrap_lines=True)
    elif status.state == "stopped" and status.message:
        st.info(plain_lines(status.message), icon=STATES["stopped"][1])
    elif status.state in ("queued", "starting") and status.attempt and (status.message or status.state == "queued"):
        st.info(f"{plain_lines(status.message)}  \n{goes_on(status)}".strip(), icon=":material/autorenew:")
    for line in safety_lines(status):
        st.caption(line)
    for warning in status.warnings[-5:]:
        st.caption(f":orange[:material/warning:] {plain(warning, 500)}")


def _figures(status: RunStatus) -> None:
    last, prepared = status.last, status.prepared
    rows = f"{count(prepared.get('train_rows'))} / {count(prepared.get('test_rows'))}" if prepared else "–"
    plain_figures = (
        ("Training loss", figure(last.get("loss"))),
        ("Test loss", figure(last.get("eval_loss"))),
        ("Tokens per second", count(_whole(last.get("tokens_per_second")))),
        ("Memory", size(last.get("gpu_memory_bytes") or last.get("memory_bytes"))),
        ("Rows, train / test", rows),
    )
    grid = st.grid(min_column_width=140)
    for name, value in (*_exact_match(status.scores), *plain_figures):
        with grid.cell():
            st.metric(name, value, border=True, height="stretch", help=EXPLAINED.get(name))
    dropped, cut = prepared.get("dropped") or 0, prepared.get("truncated_rows") or 0
    if dropped or cut:
        st.caption(
            f":orange[:material/warning:] {plural(dropped, 'row')} left out for missing cells, "
            f"{plural(cut, 'row')} cut to the maximum sequence length."
        )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _exact_match(scores: dict[str, float]) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("Exact match", share(scores.get("exact_match"))), ("Base model", share(scores.get("exact_match_base")))


def _curves(run: RunDir, status: RunStatus) -> None:
    found, living = curves(run.events_path), status.state in LIVING
    if not found:
        waiting = "The first point appears after the first steps." if living else "It logged no points."
        st.caption(f":material/show_chart: No curves yet. {waiting}")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="large"):
        smoothing = st.slider("Smoothing", 0.0, 0.98, 0.6, 0.02, key="smoothing", width=240, persist_state="session")
        log_scale = st.toggle("Log scale", key="log_scale", persist_state="session")
    marked = chosen_step(run) if status.broke_at is None else status.broke_at
    # of a run that is over nothing is left out: it may have ended with a spike
    losses = {name: settled(found[name]) if living else found[name] for name in LOSSES if name in found}
    st.plotly_chart(
        charts.kept("loss", charts.loss_chart, losses, smoothing, run.id, log_scale, marked, _best(status)),
        key=f"loss_{run.id}", config=charts.CONFIG, height=320, alt="Loss by step",
    )  # fmt: skip
    film_strip(run)
    small = [entry for entry in charts.SMALL if found.get(entry[0])]
    for (name, title, factor, form), column in zip(small, st.columns(len(small) or 1), strict=False):
        with column:
            st.caption(title)
            curve = settled(found[name], FEW_POINTS) if living else found[name]
            st.plotly_chart(
                charts.kept(name, charts.small_chart, curve, factor, form, run.id),
                key=f"{name}_{run.id}", config=charts.CONFIG, height=170, alt=f"{title} by step",
            )  # fmt: skip


def _best(status: RunStatus) -> tuple[int, float] | None:
    if not is_number(status.best.get("step")) or not is_number(status.best.get("eval_loss")):
        return None
    return int(status.best["step"]), float(status.best["eval_loss"])


def _log(run: RunDir) -> None:
    text = tail(run.log_path)
    if not text:
        st.caption("The worker has written nothing yet.")
        return
    st.code(text, language=None, wrap_lines=True, height=320)


def tail(path: Path) -> str:
    """The last lines of a text file; "" when there is none. Bytes that are no UTF-8 are shown as such."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="backslashreplace").rstrip("\r\n")
    # a progress bar rewrites its line with carriage returns: its last state is the line
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")[-LOG_LINES:])

"""The panel next to the form: the Start button, the problems that block it, and the changes from the defaults."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem, ToolkitError
from toolkit.runs.slots import count_slots
from toolkit.services.warm_client import QuestionState
from toolkit.settings import draft as drafts
from toolkit.settings import form_layout
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.settings.form_layout import describe_value
from toolkit.system.machine import read_known_machine
from toolkit.system.printable import format_plural
from toolkit.ui.configure import forecast_view, launch, preset_bar
from toolkit.ui.configure.doctor_note import draw_data_checks_note, without_found_gaps
from toolkit.ui.configure.forecast_view import RunForecasts
from toolkit.ui.configure.replaced_settings import draw_reset_all
from toolkit.ui.configure.start_summary import describe_start, describe_table
from toolkit.ui.configure.study_panel import draw_name_conflict
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.forms import form
from toolkit.ui.frame import page
from toolkit.ui.workspace import warm_questions, workspace
from toolkit.ui.workspace.decided_settings import decide_all_trials
from toolkit.ui.workspace.review import DraftReview, review_draft

MAX_LISTED_ITEMS = 8
"""Changes and problems that are listed at once."""

HARD_STOP_WAIT_SECONDS = 2.0
"""How long a press of Start waits for the search for hard stops; the run checks its rows again in any case."""

START_EXPIRY_SECONDS = 15.0
"""A press that is not handled within this time is dropped: by then the user may have moved on."""
_CHECK_DONE = QuestionState("done")
_PRESSED_AT = "start_pressed"
_REQUEST, _NAME, _START_ERROR = "start_request", "run_name", "start_failed"
_DRAWN, _HELD = "start_drawn_version", "start_held"


def draw_start_panel(reviewed: DraftReview) -> None:
    """Draw the Start button, problems, data checks, forecast, changes, and the command line."""
    _handle_request(reviewed)
    found = forecast_view.forecast_runs(reviewed)
    with st.container(border=True):
        _draw_start(reviewed, found)
        if reviewed.checking is not None:
            warm_questions.wait_for_answer(reviewed.checking, lambda: review_draft().checking or _CHECK_DONE, "review")
        _draw_problems(without_found_gaps(reviewed.problems))
        draw_data_checks_note(start_is_waiting=reviewed.checking is not None)
    forecast_view.draw_forecast_panel(reviewed, found)
    _draw_changes()
    st.caption("To start the same run from the command line, export the settings and run:")
    st.code(preset_bar.RUN_COMMAND, language=None, wrap_lines=True)


def _draw_start(reviewed: DraftReview, found: RunForecasts) -> None:
    runs = reviewed.runs_to_start
    summary = describe_start(reviewed, found)
    if summary:
        st.markdown(summary)
    draw_name_conflict(reviewed)
    study = workspace.current_setting("ablation.use_ablate") is True and bool(workspace.current_grid())
    label = "Run name" if not study else "Run name (prefix for every run of the study)"
    st.text_input(label, key=_NAME, max_chars=120, placeholder="Optional")
    st.button(
        f"Start {format_plural(runs, 'run')}" if study and runs != 1 else "Start",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=bool(reviewed.errors) or not runs,
        key="start",
        on_click=_request_start,
        args=(launch.start_ticket(), workspace.draft_version()),
    )
    # it stays while the panel draws itself anew, which the checks of the new settings cause
    if time.monotonic() - st.session_state.get(_HELD, -math.inf) < START_EXPIRY_SECONDS:
        st.warning("Nothing was started: the settings changed after you saw this summary. Check it, then press Start.")
    machine = read_known_machine(workspace.current_save_dir())
    where = f" This machine: {escape_text(machine.summary)}." if machine else ""
    slots = count_slots(workspace.current_save_dir(), machine)
    together = "The runs train one after another." if slots == 1 else f"{slots} runs train at the same time."
    st.caption((together if study and runs > 1 else "Trains in the background.") + where)
    if study and reviewed.progress is not None and not runs:
        what = (
            "This study is decided, and **Stop when decided** is on"
            if reviewed.progress.is_decided
            else ("Every trial of this study has a run")
        )
        st.caption(f"{what}. The Studies page shows the results.")
    if study:
        st.button(
            "Show the runs",
            type="tertiary",
            icon=":material/table_rows:",
            key="see_runs",
            on_click=form.open_setting,
            args=("ablation.use_ablate",),
        )
    failed = st.session_state.pop(_START_ERROR, None)
    if failed is not None:
        show_error(failed)


def _request_start(ticket: str, drawn: int) -> None:
    """Note the press. drawn: version of the draft that the summary above the button described."""
    st.session_state[_REQUEST], st.session_state[_PRESSED_AT] = ticket, time.monotonic()
    st.session_state[_DRAWN] = drawn
    st.session_state.pop(_HELD, None)


def _finish_request() -> None:
    st.session_state.pop(_REQUEST, None)
    launch.renew_start_ticket()


def _handle_request(reviewed: DraftReview) -> None:
    """Start the runs that a press of the button requested, and go to the Runs page.

    Another click interrupts the script wherever it reads the session or draws. The request therefore stays in the
    session until it is handled, usually by the next run of the page, or until it expires. A second press of the same
    button starts nothing and only goes to the Runs page. A press after a preset, an import or another dataset starts
    nothing while the panel still describes what was there before; a value that was just typed is meant.
    """
    ticket = st.session_state.get(_REQUEST)
    if ticket is None:
        return
    if time.monotonic() - st.session_state.get(_PRESSED_AT, time.monotonic()) > START_EXPIRY_SECONDS:
        del st.session_state[_REQUEST]
        return
    if st.session_state.get(_DRAWN, workspace.draft_version()) != workspace.draft_version():
        del st.session_state[_REQUEST]
        st.session_state[_HELD] = time.monotonic()
        return
    if reviewed.checking is not None:
        reviewed = review_draft(wait=HARD_STOP_WAIT_SECONDS)
    if reviewed.errors:
        del st.session_state[_REQUEST]
        return
    is_study = workspace.current_setting("ablation.use_ablate") is True
    study = str(workspace.current_setting("ablation.study_name") or "") if is_study else ""
    name = str(st.session_state.get(_NAME) or "").strip()
    with st.spinner("Starting the run…" if reviewed.runs_to_start < 20 else f"Queueing {reviewed.runs_to_start} runs…"):
        try:
            # decided before the ticket is claimed: the cache is in the session, where a second press interrupts
            decided = decide_all_trials(reviewed.trials)
            started = launch.start_runs(reviewed.trials, decided, name, study, ticket)
        except Exception as error:  # Streamlit interrupts the script with exceptions that are not of this class
            _finish_request()
            if not isinstance(error, ToolkitError):
                raise
            st.session_state[_START_ERROR] = error
            return
        _finish_request()
    page.go_to_page("runs", started[0].id if started else None)


def _draw_problems(problems: Sequence[Problem]) -> None:
    errors = sum(problem.severity == "error" for problem in problems)
    if errors:
        st.markdown(f"**Fix before starting** :gray[{format_plural(errors, 'problem')}]")
    elif problems:
        st.markdown("**Warnings**")
    for at, problem in enumerate(problems[:MAX_LISTED_ITEMS]):
        with st.container(gap=None):
            if problem.path in field_specs_by_path():
                layout = form_layout.get_field_layout(problem.path)
                st.button(
                    f"{form_layout.get_form_section(layout.section).title} › {layout.label}",
                    key=f"problem:{at}:{problem.path}",
                    type="tertiary",
                    on_click=form.open_setting,
                    args=(problem.path,),
                )
            form.show_field_problem(problem)
    if len(problems) > MAX_LISTED_ITEMS:
        st.caption(f"and {len(problems) - MAX_LISTED_ITEMS} more")


def _draw_changes() -> None:
    """Draw the settings that differ from the defaults, as default -> value, each with a reset button."""
    view = form.read_form_state()
    grid = view.grid
    changes = [c for c in drafts.find_changed_settings(view.draft) if c.path not in grid and view.is_changed(c.path)]
    total = len(changes) + len(grid)
    with st.container(border=True, gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Changed from the defaults** :gray[{total or 'none'}]", width="stretch")
            draw_reset_all()
        rows = [(path, [describe_value(path, value) for value in values]) for path, values in grid.items()]
        rows += [(change.path, [describe_value(change.path, change.value)]) for change in changes]
        show_all = st.session_state.get("all_changes", False) or total <= MAX_LISTED_ITEMS
        for path, values in rows if show_all else rows[:MAX_LISTED_ITEMS]:
            _draw_change(path, values)
        if not show_all:
            st.button(
                f"Show {total - MAX_LISTED_ITEMS} more", type="tertiary", key="all_changes_button", on_click=_show_all
            )


def _draw_change(path: str, values: Sequence[str]) -> None:
    label = form_layout.get_field_layout(path).label if path in field_specs_by_path() else path
    old = describe_value(path, form.default_value(path)) if path in field_specs_by_path() else "one value"
    if path == "data.path" and len(values) == 1 and (table := workspace.current_table()) is not None:
        values = [describe_table(table)]  # the file of a repaired version has no name
    new = ", ".join(f"**{escape_text(value, 40)}**" for value in values[:6]) + (" …" if len(values) > 6 else "")
    with st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="xxsmall"):
        st.caption(f"{escape_text(label)}: {escape_text(old, 40)} → {new}")
        st.button(
            "",
            icon=":material/undo:",
            type="tertiary",
            key=f"undo:{path}",
            help=f"Reset {escape_text(label)}",
            on_click=form.reset_setting,
            args=(path,),
        )


def _show_all() -> None:
    st.session_state["all_changes"] = True

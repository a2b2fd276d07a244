"""The panel beside the form: what Start would do, what keeps it from doing it, and what differs from the defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem, ToolkitError
from toolkit.services.warm_client import QuestionState
from toolkit.settings import draft as drafts
from toolkit.settings import form_layout
from toolkit.settings.ablation import STUDY_WIDE_SETTINGS
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.system.machine import read_known_machine
from toolkit.ui.configure import forecast_view, launch, preset_bar
from toolkit.ui.configure.doctor_note import draw_data_checks_note
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_plural
from toolkit.ui.forms import form
from toolkit.ui.frame import page
from toolkit.ui.workspace import warm_questions, workspace
from toolkit.ui.workspace.review import DraftReview, review_draft, tabulate_trials, value_label

MAX_LISTED_ITEMS = 8
"""Changes and problems that are listed at once."""

HARD_STOP_WAIT_SECONDS = 2.0
"""How long a press of Start waits for the search for hard stops; the run itself looks at its rows in any case."""

START_EXPIRY_SECONDS = 15.0
_CHECK_DONE = QuestionState("done")
_PRESSED_AT = "start_pressed"
_REQUEST, _NAME, _START_ERROR = "start_request", "run_name", "start_failed"
CONFIGURE_SECTION_KEY, CONFIGURE_SEARCH_KEY = "configure_section", "configure_search"


def draw_start_panel(reviewed: DraftReview) -> None:
    """Start, problems, changes, and the command line."""
    _handle_request(reviewed)
    with st.container(border=True):
        _draw_start(reviewed)
        if reviewed.checking is not None:
            warm_questions.wait_for_answer(reviewed.checking, lambda: review_draft().checking or _CHECK_DONE, "review")
        _draw_problems(reviewed.problems)
        draw_data_checks_note(waits=reviewed.checking is not None)
    forecast_view.draw_forecast_panel(reviewed)
    _draw_changes()
    st.caption("The same without a browser, with the exported file:")
    st.code(preset_bar.RUN_COMMAND, language=None, wrap_lines=True)


def draw_study_table(reviewed: DraftReview) -> None:
    """The runs of the study before they start: only the settings that differ."""
    if workspace.current_setting("ablation.use_ablate") is not True:
        return
    if not workspace.current_grid():
        st.info(
            "Press :material/stacks: beside any setting to try several values of it. Every combination becomes a run.",
            icon=":material/science:",
        )
        return
    if not reviewed.variants:
        st.caption("The runs are listed here once the values can be used.")
        return
    study = escape_text(workspace.current_setting("ablation.study_name") or "")
    st.markdown(f"**{format_plural(len(reviewed.variants), 'run')}** will be queued under the study **{study}**.")
    rows = tabulate_trials(reviewed.variants)
    st.dataframe(rows, hide_index=True, width="stretch", height="content" if len(rows) <= 12 else 440)


def open_setting(path: str) -> None:
    """Turn the form to the section of a setting."""
    st.session_state[CONFIGURE_SEARCH_KEY] = ""
    st.session_state[CONFIGURE_SECTION_KEY] = form_layout.get_field_layout(path).section


def _draw_start(reviewed: DraftReview) -> None:
    runs = max(reviewed.runs, 1)
    study = workspace.current_setting("ablation.use_ablate") is True and bool(workspace.current_grid())
    st.text_input("Name of the run" if not study else "Name before each run", key=_NAME, max_chars=120,
                  placeholder="Optional")  # fmt: skip
    st.button(
        f"Start {runs:,} runs" if study and runs > 1 else "Start",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=bool(reviewed.errors),
        key="start",
        on_click=_request_start,
        args=(launch.start_ticket(),),
    )
    known = read_known_machine(workspace.current_save_dir())
    where = f" This machine: {escape_text(known.words)}." if known else ""
    st.caption(("They run one after another." if study and runs > 1 else "Trains in the background.") + where)
    if study:
        st.button("See the runs", type="tertiary", icon=":material/table_rows:", key="see_runs", on_click=open_setting,
                  args=("ablation.use_ablate",))  # fmt: skip
    failed = st.session_state.pop(_START_ERROR, None)
    if failed is not None:
        show_error(failed)


def _request_start(number: str) -> None:
    st.session_state[_REQUEST], st.session_state[_PRESSED_AT] = number, time.monotonic()


def _finish_request() -> None:
    st.session_state.pop(_REQUEST, None)
    launch.renew_start_ticket()


def _handle_request(reviewed: DraftReview) -> None:
    """Start what a press asked for; a second press of the same button only follows the first to the runs.

    Another click breaks this off wherever it looks at the session or draws: the press stays until it is answered, as
    a rule by the page's next run, unless the person has gone elsewhere for so long that it would come as a surprise.
    """
    number = st.session_state.get(_REQUEST)
    if number is None:
        return
    if time.monotonic() - st.session_state.get(_PRESSED_AT, time.monotonic()) > START_EXPIRY_SECONDS:
        del st.session_state[_REQUEST]
        return
    if reviewed.checking is not None:
        reviewed = review_draft(wait=HARD_STOP_WAIT_SECONDS)
    if reviewed.errors:
        del st.session_state[_REQUEST]
        return
    study = (
        (workspace.current_setting("ablation.study_name") or "")
        if workspace.current_setting("ablation.use_ablate") is True
        else ""
    )
    name = str(st.session_state.get(_NAME) or "").strip()
    with st.spinner("Starting…" if reviewed.runs < 20 else f"Queueing {reviewed.runs} runs…"):
        try:
            started = launch.start_runs(reviewed, name, study, number)
        except Exception as error:  # what breaks a page off is none
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
        st.markdown(f"**Before it can start** :gray[{format_plural(errors, 'setting')} to correct]")
    elif problems:
        st.markdown("**Worth knowing**")
    for at, problem in enumerate(problems[:MAX_LISTED_ITEMS]):
        with st.container(gap=None):
            if problem.path in field_specs_by_path():
                here = form_layout.get_field_layout(problem.path)
                st.button(
                    f"{form_layout.get_form_section(here.section).title} › {here.label}", key=f"problem:{at}:{problem.path}",
                    type="tertiary", on_click=open_setting, args=(problem.path,),
                )  # fmt: skip
            form.show_field_problem(problem)
    if len(problems) > MAX_LISTED_ITEMS:
        st.caption(f"and {len(problems) - MAX_LISTED_ITEMS} more")


def _draw_changes() -> None:
    """What differs from the defaults, old -> new, each with its way back."""
    view = form.read_form_state()
    grid = view.grid
    changes = [c for c in drafts.find_changed_settings(view.draft) if c.path not in grid and view.is_changed(c.path)]
    total = len(changes) + len(grid)
    with st.container(border=True, gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Changed from the defaults** :gray[{total or 'nothing yet'}]", width="stretch")
            if total:
                st.button("Reset all", type="tertiary", key="reset_all", on_click=_reset_everything)
        rows = [(path, [value_label(path, value) for value in values]) for path, values in grid.items()]
        rows += [(change.path, [value_label(change.path, change.value)]) for change in changes]
        everything = st.session_state.get("all_changes", False) or total <= MAX_LISTED_ITEMS
        for path, values in rows if everything else rows[:MAX_LISTED_ITEMS]:
            _draw_change(path, values)
        if not everything:
            st.button(
                f"Show {total - MAX_LISTED_ITEMS} more", type="tertiary", key="all_changes_button", on_click=_show_all
            )


def _draw_change(path: str, values: Sequence[str]) -> None:
    label = form_layout.get_field_layout(path).label if path in field_specs_by_path() else path
    old = value_label(path, form.default_value(path)) if path in field_specs_by_path() else "one value"
    new = ", ".join(f"**{escape_text(value, 40)}**" for value in values[:6]) + (" …" if len(values) > 6 else "")
    with st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="xxsmall"):
        st.caption(f"{escape_text(label)}: {escape_text(old, 40)} → {new}")
        st.button("", icon=":material/undo:", type="tertiary", key=f"undo:{path}", help=f"Reset {escape_text(label)}",
                  on_click=form.reset_setting, args=(path,))  # fmt: skip


def _show_all() -> None:
    st.session_state["all_changes"] = True


def _reset_everything() -> None:
    """Back to the defaults, with the way back that presets have; the folder stays, it is where the runs are."""
    workspace.replace_draft(
        drafts.replace_setting(
            drafts.default_draft(), STUDY_WIDE_SETTINGS[0], workspace.current_setting(STUDY_WIDE_SETTINGS[0])
        )
    )

"""The panel beside the form: what Start would do, what keeps it from doing it, and what differs from the defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem, ToolkitError
from toolkit.services.warm_client import Look
from toolkit.settings import draft as drafts
from toolkit.settings import form_layout
from toolkit.settings.ablation import FIXED
from toolkit.settings.field_spec import by_path
from toolkit.system.machine import machine_if_known
from toolkit.ui.configure import forecast_view, launch, preset_bar
from toolkit.ui.configure.doctor_note import doctor_note
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import plural
from toolkit.ui.forms import form
from toolkit.ui.frame import page
from toolkit.ui.workspace import warm_questions, workspace
from toolkit.ui.workspace.review import Review, review, runs_table, value_words

SHOWN = 8
"""Changes and problems that are listed at once."""

PATIENCE_SECONDS = 2.0
"""How long a press of Start waits for the search for hard stops; the run itself looks at its rows in any case."""

FORGOTTEN_SECONDS = 15.0
_OVER = Look("done")
_PRESSED = "start_pressed"
_REQUEST, _NAME, _FAILED = "start_request", "run_name", "start_failed"
SECTION, SEARCH = "configure_section", "configure_search"


def panel(reviewed: Review) -> None:
    """Start, problems, changes, and the command line."""
    _answer_request(reviewed)
    with st.container(border=True):
        _start(reviewed)
        if reviewed.checking is not None:
            warm_questions.waiting(reviewed.checking, lambda: review().checking or _OVER, "review")
        _problems(reviewed.problems)
        doctor_note(waits=reviewed.checking is not None)
    forecast_view.panel(reviewed)
    _changes()
    st.caption("The same without a browser, with the exported file:")
    st.code(preset_bar.COMMAND, language=None, wrap_lines=True)


def study_table(reviewed: Review) -> None:
    """The runs of the study before they start: only the settings that differ."""
    if workspace.value("ablation.use_ablate") is not True:
        return
    if not workspace.grid():
        st.info(
            "Press :material/stacks: beside any setting to try several values of it. Every combination becomes a run.",
            icon=":material/science:",
        )
        return
    if not reviewed.variants:
        st.caption("The runs are listed here once the values can be used.")
        return
    study = plain(workspace.value("ablation.study_name") or "")
    st.markdown(f"**{plural(len(reviewed.variants), 'run')}** will be queued under the study **{study}**.")
    rows = runs_table(reviewed.variants)
    st.dataframe(rows, hide_index=True, width="stretch", height="content" if len(rows) <= 12 else 440)


def show(path: str) -> None:
    """Turn the form to the section of a setting."""
    st.session_state[SEARCH] = ""
    st.session_state[SECTION] = form_layout.place(path).section


def _start(reviewed: Review) -> None:
    runs = max(reviewed.runs, 1)
    study = workspace.value("ablation.use_ablate") is True and bool(workspace.grid())
    st.text_input("Name of the run" if not study else "Name before each run", key=_NAME, max_chars=120,
                  placeholder="Optional")  # fmt: skip
    st.button(
        f"Start {runs:,} runs" if study and runs > 1 else "Start",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=bool(reviewed.errors),
        key="start",
        on_click=_request,
        args=(launch.ticket(),),
    )
    known = machine_if_known(workspace.save_dir())
    where = f" This machine: {plain(known.words)}." if known else ""
    st.caption(("They run one after another." if study and runs > 1 else "Trains in the background.") + where)
    if study:
        st.button("See the runs", type="tertiary", icon=":material/table_rows:", key="see_runs", on_click=show,
                  args=("ablation.use_ablate",))  # fmt: skip
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)


def _request(number: str) -> None:
    st.session_state[_REQUEST], st.session_state[_PRESSED] = number, time.monotonic()


def _answered() -> None:
    st.session_state.pop(_REQUEST, None)
    launch.renew()


def _answer_request(reviewed: Review) -> None:
    """Start what a press asked for; a second press of the same button only follows the first to the runs.

    Another click breaks this off wherever it looks at the session or draws: the press stays until it is answered, as
    a rule by the page's next run, unless the person has gone elsewhere for so long that it would come as a surprise.
    """
    number = st.session_state.get(_REQUEST)
    if number is None:
        return
    if time.monotonic() - st.session_state.get(_PRESSED, time.monotonic()) > FORGOTTEN_SECONDS:
        del st.session_state[_REQUEST]
        return
    if reviewed.checking is not None:
        reviewed = review(wait=PATIENCE_SECONDS)
    if reviewed.errors:
        del st.session_state[_REQUEST]
        return
    study = (workspace.value("ablation.study_name") or "") if workspace.value("ablation.use_ablate") is True else ""
    name = str(st.session_state.get(_NAME) or "").strip()
    with st.spinner("Starting…" if reviewed.runs < 20 else f"Queueing {reviewed.runs} runs…"):
        try:
            started = launch.start(reviewed, name, study, number)
        except Exception as error:  # what breaks a page off is none
            _answered()
            if not isinstance(error, ToolkitError):
                raise
            st.session_state[_FAILED] = error
            return
        _answered()
    page.go("runs", started[0].id if started else None)


def _problems(problems: Sequence[Problem]) -> None:
    errors = sum(problem.severity == "error" for problem in problems)
    if errors:
        st.markdown(f"**Before it can start** :gray[{plural(errors, 'setting')} to correct]")
    elif problems:
        st.markdown("**Worth knowing**")
    for at, problem in enumerate(problems[:SHOWN]):
        with st.container(gap=None):
            if problem.path in by_path():
                here = form_layout.place(problem.path)
                st.button(
                    f"{form_layout.section(here.section).title} › {here.label}", key=f"problem:{at}:{problem.path}",
                    type="tertiary", on_click=show, args=(problem.path,),
                )  # fmt: skip
            form.note(problem)
    if len(problems) > SHOWN:
        st.caption(f"and {len(problems) - SHOWN} more")


def _changes() -> None:
    """What differs from the defaults, old -> new, each with its way back."""
    view = form.now()
    grid = view.grid
    changes = [c for c in drafts.changed(view.draft) if c.path not in grid and view.is_changed(c.path)]
    total = len(changes) + len(grid)
    with st.container(border=True, gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Changed from the defaults** :gray[{total or 'nothing yet'}]", width="stretch")
            if total:
                st.button("Reset all", type="tertiary", key="reset_all", on_click=_reset_everything)
        rows = [(path, [value_words(path, value) for value in values]) for path, values in grid.items()]
        rows += [(change.path, [value_words(change.path, change.value)]) for change in changes]
        everything = st.session_state.get("all_changes", False) or total <= SHOWN
        for path, values in rows if everything else rows[:SHOWN]:
            _change(path, values)
        if not everything:
            st.button(f"Show {total - SHOWN} more", type="tertiary", key="all_changes_button", on_click=_show_all)


def _change(path: str, values: Sequence[str]) -> None:
    label = form_layout.place(path).label if path in by_path() else path
    old = value_words(path, form.default_of(path)) if path in by_path() else "one value"
    new = ", ".join(f"**{plain(value, 40)}**" for value in values[:6]) + (" …" if len(values) > 6 else "")
    with st.container(horizontal=True, vertical_alignment="center", wrap=False, gap="xxsmall"):
        st.caption(f"{plain(label)}: {plain(old, 40)} → {new}")
        st.button("", icon=":material/undo:", type="tertiary", key=f"undo:{path}", help=f"Reset {plain(label)}",
                  on_click=form.reset, args=(path,))  # fmt: skip


def _show_all() -> None:
    st.session_state["all_changes"] = True


def _reset_everything() -> None:
    """Back to the defaults, with the way back that presets have; the folder stays, it is where the runs are."""
    workspace.replace_draft(drafts.put(drafts.default_draft(), FIXED[0], workspace.value(FIXED[0])))

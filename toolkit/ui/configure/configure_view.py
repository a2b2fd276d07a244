"""The Configure page below its presets: one section at a time, or the settings that a search finds, and the summary."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem
from toolkit.runs.worker_process import accelerate_yaml
from toolkit.settings import form_layout
from toolkit.system.machine import machine_if_known
from toolkit.ui.configure import device_choices, start_panel
from toolkit.ui.configure.start_panel import SEARCH, SECTION, study_table
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import plural
from toolkit.ui.forms import form
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import Review

_LAST = "configure_last_section"


def settings(reviewed: Review) -> None:
    """The search box and the sections over the whole width; below, the form beside the summary."""
    words = st.text_input(
        "Find a setting", key=SEARCH, type="search", live=True, icon=":material/search:",
        placeholder="Find a setting by its name or what it does", label_visibility="collapsed",
    )  # fmt: skip
    searching = bool((words or "").strip())
    chosen = None if searching else _choose(reviewed.problems)
    form_side, summary_side = st.columns([7, 3], gap="medium")
    with form_side:
        if chosen is None:
            _found(str(words), reviewed.problems)
        else:
            _section(chosen, reviewed)
    with summary_side:
        start_panel.panel(reviewed)


def _choose(problems: Sequence[Problem]) -> form_layout.Section:
    keys = [entry.key for entry in form_layout.SECTIONS]
    if st.session_state.get(SECTION) not in keys:
        st.session_state[SECTION] = st.session_state.get(_LAST, "model")
    wrong = {
        form_layout.place(problem.path).section for problem in problems if problem.severity == "error" and problem.path
    }
    view = form.now()
    changed = {key for key in keys if any(map(view.is_changed, form_layout.paths(key)))}

    def title(key: str) -> str:
        mark = " :red[:material/error:]" if key in wrong else " :primary[●]" if key in changed else ""
        return form_layout.section(key).title + mark

    chosen = st.pills(
        "Section", keys, key=SECTION, required=True, format_func=title, label_visibility="collapsed", wrap=True
    )
    # a widget's value is lost while it is not drawn: search and other pages come back to the same section
    st.session_state[_LAST] = chosen
    return form_layout.section(str(chosen))


def _section(entry: form_layout.Section, reviewed: Review) -> None:
    paths = form_layout.paths(entry.key)
    with st.container(gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(entry.title, anchor=False, width="stretch")
            # always there, so that nothing moves when the first setting is changed
            unchanged = not any(map(form.now().is_changed, paths))
            st.button("Reset section", icon=":material/undo:", type="tertiary", key="reset_section",
                      disabled=unchanged, on_click=form.reset_all, args=(paths,))  # fmt: skip
        st.caption(entry.lead)
    form.render_section(entry.key, reviewed.problems)
    if entry.key == "data":
        page.link("data", "Preview rows and templates on the Data page")
    elif entry.key == "study":
        study_table(reviewed)
    elif entry.key == "precision":
        if reviewed.variants:
            device_choices.panel(reviewed.variants[0], machine_if_known(workspace.save_dir()))
        _launcher_file(reviewed)


def _found(words: str, problems: Sequence[Problem]) -> None:
    paths = form_layout.search(words)
    shown = form.visible(paths, problems)
    st.caption(f"{plural(len(paths), 'setting')} for “{plain(words)}”")
    form.render_fields(shown, problems)
    for need, labels in _without_effect([path for path in paths if path not in shown]).items():
        st.caption(f"With **{plain(need)}** switched on, also: {plain(', '.join(labels), 500)}")


def _without_effect(hidden: Sequence[str]) -> dict[str, list[str]]:
    """The labels of settings that are hidden now, by what would show them."""
    found: dict[str, list[str]] = {}
    for path in hidden:
        needs = [form_layout.place(other).label for other, _ in form_layout.place(path).shown_when]
        found.setdefault(" and ".join(needs), []).append(form_layout.place(path).label)
    return found


def _launcher_file(reviewed: Review) -> None:
    machine = machine_if_known(workspace.save_dir())
    if workspace.value("accelerate") is not True or machine is None or not reviewed.variants:
        return
    st.caption("`accelerate launch` gets this file, made from the settings and this machine:")
    st.code(accelerate_yaml(reviewed.variants[0].config, machine), language=None)

"""The Configure page below its presets: one section at a time, or the settings that a search finds, and the summary."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem
from toolkit.forms import layout
from toolkit.runs.accelerate_file import accelerate_yaml
from toolkit.runs.machine import machine_if_known
from toolkit.ui import chosen_view, chrome, form, state, summary
from toolkit.ui.plain import plain
from toolkit.ui.review import Review
from toolkit.ui.summary import SEARCH, SECTION, study_table
from toolkit.ui.words import plural

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
        summary.panel(reviewed)


def _choose(problems: Sequence[Problem]) -> layout.Section:
    keys = [entry.key for entry in layout.SECTIONS]
    if st.session_state.get(SECTION) not in keys:
        st.session_state[SECTION] = st.session_state.get(_LAST, "model")
    wrong = {layout.place(problem.path).section for problem in problems if problem.severity == "error" and problem.path}
    view = form.now()
    changed = {key for key in keys if any(map(view.is_changed, layout.paths(key)))}

    def title(key: str) -> str:
        mark = " :red[:material/error:]" if key in wrong else " :primary[●]" if key in changed else ""
        return layout.section(key).title + mark

    chosen = st.pills(
        "Section", keys, key=SECTION, required=True, format_func=title, label_visibility="collapsed", wrap=True
    )
    # a widget's value is lost while it is not drawn: search and other pages come back to the same section
    st.session_state[_LAST] = chosen
    return layout.section(str(chosen))


def _section(entry: layout.Section, reviewed: Review) -> None:
    paths = layout.paths(entry.key)
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
        chrome.link("data", "Preview rows and templates on the Data page")
    elif entry.key == "study":
        study_table(reviewed)
    elif entry.key == "precision":
        if reviewed.variants:
            chosen_view.panel(reviewed.variants[0], machine_if_known(state.save_dir()))
        _launcher_file(reviewed)


def _found(words: str, problems: Sequence[Problem]) -> None:
    paths = layout.search(words)
    shown = form.visible(paths, problems)
    st.caption(f"{plural(len(paths), 'setting')} for “{plain(words)}”")
    form.render_fields(shown, problems)
    for need, labels in _without_effect([path for path in paths if path not in shown]).items():
        st.caption(f"With **{plain(need)}** switched on, also: {plain(', '.join(labels), 500)}")


def _without_effect(hidden: Sequence[str]) -> dict[str, list[str]]:
    """The labels of settings that are hidden now, by what would show them."""
    found: dict[str, list[str]] = {}
    for path in hidden:
        needs = [layout.place(other).label for other, _ in layout.place(path).shown_when]
        found.setdefault(" and ".join(needs), []).append(layout.place(path).label)
    return found


def _launcher_file(reviewed: Review) -> None:
    machine = machine_if_known(state.save_dir())
    if state.value("accelerate") is not True or machine is None or not reviewed.variants:
        return
    st.caption("`accelerate launch` gets this file, made from the settings and this machine:")
    st.code(accelerate_yaml(reviewed.variants[0].config, machine), language=None)

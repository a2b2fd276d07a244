"""The Configure page below its presets: one section or the search results on the left, the Start panel on the right."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.errors import Problem
from toolkit.runs.worker_process import accelerate_yaml
from toolkit.settings import form_layout
from toolkit.system.machine import read_known_machine
from toolkit.system.printable import format_plural
from toolkit.ui.configure import device_choices, model_picker, start_panel
from toolkit.ui.configure.study_panel import draw_study_table
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.forms import form
from toolkit.ui.forms.form import CONFIGURE_SEARCH_KEY, CONFIGURE_SECTION_KEY
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import DraftReview

_LAST_SECTION = "configure_last_section"


def draw_settings(reviewed: DraftReview) -> None:
    """Draw the search box and the section tabs, and below them the form and the Start panel."""
    query = st.text_input(
        "Find a setting",
        key=CONFIGURE_SEARCH_KEY,
        type="search",
        live=True,
        icon=":material/search:",
        placeholder="Find a setting by name or description",
        label_visibility="collapsed",
    )
    searching = bool((query or "").strip())
    chosen = None if searching else _choose_section(reviewed.problems)
    form_side, summary_side = st.columns([7, 3], gap="medium")
    with form_side:
        if chosen is None:
            _draw_search_results(str(query), reviewed)
        else:
            _draw_section(chosen, reviewed)
    with summary_side:
        start_panel.draw_start_panel(reviewed)


def _choose_section(problems: Sequence[Problem]) -> form_layout.FormSection:
    keys = [entry.key for entry in (form_layout.BASICS, *form_layout.FORM_SECTIONS)]
    if st.session_state.get(CONFIGURE_SECTION_KEY) not in keys:
        st.session_state[CONFIGURE_SECTION_KEY] = st.session_state.get(_LAST_SECTION, form_layout.BASICS.key)
    with_errors = {
        form_layout.get_field_layout(problem.path).section
        for problem in problems
        if problem.severity == "error" and problem.path
    }
    if any(problem.severity == "error" and problem.path in form_layout.BASIC_SETTINGS for problem in problems):
        with_errors.add(form_layout.BASICS.key)
    view = form.read_form_state()
    changed = {key for key in keys if any(map(view.is_changed, form_layout.list_section_settings(key)))}

    def title(key: str) -> str:
        mark = " :red[:material/error:]" if key in with_errors else " :primary[●]" if key in changed else ""
        return form_layout.get_form_section(key).title + mark

    chosen = st.pills(
        "Section",
        keys,
        key=CONFIGURE_SECTION_KEY,
        required=True,
        format_func=title,
        label_visibility="collapsed",
        wrap=True,
    )
    # Streamlit drops a widget's value while it is not drawn; this restores the section after a search or another page
    st.session_state[_LAST_SECTION] = chosen
    return form_layout.get_form_section(str(chosen))


def _draw_section(entry: form_layout.FormSection, reviewed: DraftReview) -> None:
    paths = form_layout.list_section_settings(entry.key)
    with st.container(gap=None):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.header(entry.title, anchor=False, width="stretch")
            if workspace.current_setting("ablation.use_ablate") is not True and entry.key != "study":
                st.button(
                    "Try several values",
                    icon=":material/stacks:",
                    type="tertiary",
                    key="turn_study_on",
                    help="Set up a study: give settings several values, and read afterwards which of them matter.",
                    on_click=workspace.set_setting,
                    args=("ablation.use_ablate", True),
                )
            # disabled instead of hidden, so that the page does not jump when the first setting is changed
            st.button(
                "Reset section",
                icon=":material/undo:",
                type="tertiary",
                key="reset_section",
                disabled=not any(map(form.read_form_state().is_changed, paths)),
                on_click=form.reset_several_settings,
                args=(paths,),
            )
        st.caption(entry.lead)
    if workspace.current_setting("ablation.use_ablate") is True:
        # one sentence instead of the other, so that the page does not jump when the first setting gets several values
        first = "Press **Try several values** next to a setting."
        what = "Enter two or more values." if workspace.current_grid() else first
        st.info(f"{what} Every combination becomes a run.", icon=":material/stacks:")
    if entry.key in model_picker.MODEL_SECTIONS:
        model_picker.draw_model_picker(reviewed)
    form.render_section(entry.key, reviewed.problems, meanings=_describe_auto_values(reviewed))
    if entry.key == "data":
        page.link_to_page("data", "Preview rows and templates on the Data page")
    elif entry.key == "study":
        draw_study_table(reviewed)
    elif entry.key == "precision":
        if reviewed.trials:
            device_choices.draw_device_choices(reviewed.trials[0], read_known_machine(workspace.current_save_dir()))
        _draw_accelerate_file(reviewed)


def _describe_auto_values(reviewed: DraftReview) -> dict[str, str]:
    if not reviewed.trials:
        return {}
    return device_choices.describe_auto_values(reviewed.trials[0], read_known_machine(workspace.current_save_dir()))


def _draw_search_results(query: str, reviewed: DraftReview) -> None:
    problems = reviewed.problems
    paths = form_layout.search_settings(query)
    shown = form.visible_settings(paths, problems)
    st.caption(f"{format_plural(len(paths), 'setting')} for “{escape_text(query)}”")
    form.render_fields(shown, problems, form.read_form_state(_describe_auto_values(reviewed)))
    for condition, labels in _hidden_labels([path for path in paths if path not in shown]).items():
        st.caption(f"Turn on **{escape_text(condition)}** to use: {escape_text(', '.join(labels), 500)}")


def _hidden_labels(hidden: Sequence[str]) -> dict[str, list[str]]:
    """Return the labels of hidden settings by the labels of the settings that would show them."""
    labels: dict[str, list[str]] = {}
    for path in hidden:
        layout = form_layout.get_field_layout(path)
        conditions = [form_layout.get_field_layout(other).label for other, _ in layout.shown_when]
        labels.setdefault(" and ".join(conditions), []).append(layout.label)
    return labels


def _draw_accelerate_file(reviewed: DraftReview) -> None:
    machine = read_known_machine(workspace.current_save_dir())
    if workspace.current_setting("accelerate") is not True or machine is None or not reviewed.trials:
        return
    st.caption("Config file for `accelerate launch`, made from the settings and this machine:")
    st.code(accelerate_yaml(reviewed.trials[0].config, machine), language=None)

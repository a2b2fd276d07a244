"""The form of the settings: a section, a list of settings, or one setting, for any page.

A setting is drawn with its label, widget, change mark, reset button, the switch to several values while a study is on,
and its problems below. The draft in `ui/workspace/workspace.py` holds the values; widgets are views of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import streamlit as st

from toolkit.errors import Problem
from toolkit.settings import ablation, form_layout
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.typed_text import summarize_value
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.forms.widgets import WidgetInput, find_widget_rule, make_saver
from toolkit.ui.workspace import workspace, workspace_file

MIN_COLUMN = 270
"""Pixels: two columns next to the Start panel on a small laptop, three on a wide screen, one on a phone."""
CONFIGURE_SECTION_KEY, CONFIGURE_SEARCH_KEY = "configure_section", "configure_search"


@dataclass(frozen=True)
class FormState:
    """The draft and the study's values, read once for many settings: each read of the session takes a lock.

    meanings: path -> what Auto stands for at present, on this machine and with this model. version: of the draft.
    """

    draft: drafts.Draft
    grid: ablation.ValueGrid
    ablation_on: bool
    meanings: Mapping[str, str] = field(default_factory=dict)
    version: int = field(default_factory=workspace.draft_version)

    def value(self, path: str) -> Any:
        return drafts.get_setting(self.draft, path)

    def is_changed(self, path: str) -> bool:
        return path in self.grid or drafts.setting_values_differ(default_value(path), self.value(path))


def read_form_state(meanings: Mapping[str, str] | None = None) -> FormState:
    """Read the draft and the study's values from the session. meanings: see FormState."""
    draft = workspace.current_draft()
    on = ablation.uses_ablation(draft)
    return FormState(draft, workspace.current_grid() if on else {}, on, meanings or {})


def open_setting(path: str) -> None:
    """Show the section of a setting when the Configure page is drawn next."""
    show_section(form_layout.get_field_layout(path).section)


def show_section(key: str) -> None:
    """Show this section when the Configure page is drawn next. key: of a `FormSection`."""
    st.session_state[CONFIGURE_SEARCH_KEY] = ""
    st.session_state[CONFIGURE_SECTION_KEY] = key


def render_section(
    key: str, problems: Sequence[Problem] = (), *, several: bool = True, meanings: Mapping[str, str] | None = None
) -> None:
    """Draw every setting of a section that has an effect now, with the advanced ones in an expander.

    several: whether to offer several values while a study is on; False where the page uses one value at once.
    meanings: see FormState.
    """
    view = read_form_state(meanings) if several else FormState(workspace.current_draft(), {}, ablation_on=False)
    render_fields(visible_settings(form_layout.list_section_settings(key, "basic"), problems, view), problems, view)
    advanced = visible_settings(form_layout.list_section_settings(key, "advanced"), problems, view)
    if not advanced:
        return
    expander = st.expander(
        "Advanced", key=_advanced_key(key, advanced, problems, view), icon=":material/tune:", on_change="rerun"
    )
    if expander.open:  # a closed one costs no widgets
        with expander:
            render_fields(advanced, problems, view)


def render_fields(paths: Sequence[str], problems: Sequence[Problem] = (), view: FormState | None = None) -> None:
    """Draw settings in as many columns as fit, with switches above and long texts below over the whole width."""
    view = view or read_form_state()
    wide = [path for path in paths if form_layout.get_field_layout(path).rows]
    # a switch with several values is drawn as a box like the other settings
    switches = [path for path in paths if form_layout.get_field_layout(path).switch and path not in view.grid]
    narrow = [path for path in paths if path not in wide and path not in switches]
    for path in switches:
        render_field(path, problems, view)
    if narrow:
        grid = st.grid(min_column_width=MIN_COLUMN, gap=("small", "medium"))
        for path in narrow:
            with grid.cell():
                _field(path, problems, view)
    for path in wide:
        render_field(path, problems, view)


def render_field(path: str, problems: Sequence[Problem] = (), view: FormState | None = None) -> None:
    """Draw one setting: its widget, its buttons, and its problems."""
    with st.container(gap="xxsmall"):
        _field(path, problems, view or read_form_state())


def _field(path: str, problems: Sequence[Problem], view: FormState) -> None:
    spec, layout = field_specs_by_path()[path], form_layout.get_field_layout(path)
    several = path in view.grid
    value = view.grid[path] if several else view.value(path)
    changed = view.is_changed(path)
    rule = find_widget_rule(spec, layout)
    cell = WidgetInput(
        spec=spec,
        layout=layout,
        value=value,
        key=f"{'grid' if several else 'field'}:{path}" + (f"@{view.version}" if view.version else ""),
        label=_field_label(layout, changed),
        help=form_layout.help_text(path),
        save=make_saver(path, value, view.version, set_grid_values if several else workspace.set_setting),
    )
    is_switch = rule.name == "switch" and not several
    alignment: Literal["center", "bottom"] = "center" if is_switch else "bottom"
    # always a row, with or without buttons: a widget that moves into a row while the user types loses the focus
    with st.container(horizontal=True, wrap=False, vertical_alignment=alignment, gap="xxsmall"):
        (rule.draw_several if several else rule.draw_single)(cell)
        _field_actions(path, changed, view)
    if value is None and spec.kind == "flag":
        st.caption(escape_text(view.meanings.get(path, layout.when_empty + "."), 300))
    for problem in problems:
        if problem.path == path:
            show_field_problem(problem)


def show_field_problem(problem: Problem) -> None:
    """Show a problem with its hint in small type: red for an error, orange for a warning."""
    color, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
    # not st.caption, which fades colors below the contrast that small type needs
    st.markdown(
        f":small[:{color}[:material/{icon}: {escape_text(problem.message, 500)}] {escape_text(problem.hint, 500)}]"
    )


def visible_settings(
    paths: Sequence[str], problems: Sequence[Problem] = (), view: FormState | None = None
) -> tuple[str, ...]:
    """Return the settings that have an effect now, have an error, or have several values in the study."""
    view = view or read_form_state()
    always_shown = {problem.path for problem in problems if problem.severity == "error"} | set(view.grid)
    return tuple(
        path for path in paths if path in always_shown or form_layout.is_setting_shown(path, view.draft, view.grid)
    )


def set_grid_values(path: str, values: list[Any]) -> None:
    """Set the study's values of a setting. The grid keeps the order of the schema, which decides the order of runs."""
    workspace.refresh_workspace()
    grid = {**workspace.current_grid(), path: values}
    order = [spec.path for spec in list_field_specs()]
    workspace.set_grid(dict(sorted(grid.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else -1)))


def use_single_value(path: str) -> None:
    """Remove a setting from the study and set it to the first of its values, if there is one."""
    workspace.refresh_workspace()
    grid = workspace.current_grid()
    values = grid.pop(path, [])
    workspace.replace_settings({path: ablation.pick_first_value(path, values)} if values else {}, grid)


def reset_setting(path: str) -> None:
    """Reset a setting to its default, and remove it from the study."""
    workspace.refresh_workspace()
    grid = {other: values for other, values in workspace.current_grid().items() if other != path}
    workspace.replace_settings({path: default_value(path)} if path in field_specs_by_path() else {}, grid)


def default_value(path: str) -> Any:
    """Return the default of a setting: the schema's, or the save_dir from the environment variable."""
    moved = path == "save_dir" and workspace_file.is_home_folder_moved()
    return str(workspace_file.home_folder()) if moved else field_specs_by_path()[path].default


def reset_several_settings(paths: Sequence[str]) -> None:
    """Reset several settings to their defaults; `workspace.restore_previous_draft` undoes it."""
    workspace.refresh_workspace()
    grid = {path: values for path, values in workspace.current_grid().items() if path not in paths}
    draft = workspace.current_draft()
    for path in paths:
        draft = drafts.replace_setting(draft, path, default_value(path))
    workspace.replace_draft(draft, grid)


def _field_label(layout: form_layout.FieldLayout, changed: bool) -> str:
    unit = f" :gray[· {layout.unit}]" if layout.unit else ""
    return f"{escape_text(layout.label)}{unit}{' :primary[●]' if changed else ''}"


def _field_actions(path: str, changed: bool, view: FormState) -> None:
    several = path in view.grid
    label = form_layout.get_field_layout(path).label
    default = summarize_value(field_specs_by_path()[path], default_value(path))
    if view.ablation_on and path not in ablation.STUDY_WIDE_SETTINGS:
        st.button(
            "Use one value" if several else "Try several values",
            icon=":material/looks_one:" if several else ":material/stacks:",
            key=f"several:{path}",
            help=f"{label}: use one value" if several else f"{label}: try several values in the study",
            type="tertiary",
            on_click=use_single_value
            if several
            else lambda path=path: set_grid_values(path, [workspace.current_setting(path)]),
            args=(path,) if several else (),
        )
    if changed:
        st.button(
            "",
            icon=":material/undo:",
            key=f"reset:{path}",
            help=f"{label}: reset to the default, {escape_text(default)}",
            type="tertiary",
            on_click=reset_setting,
            args=(path,),
        )


def _advanced_key(key: str, advanced: Sequence[str], problems: Sequence[Problem], view: FormState) -> str:
    """Return the key of a section's expander, opened at first if a setting inside is changed or has a problem."""
    session_key = f"advanced:{key}"
    with_problems = {problem.path for problem in problems}
    if session_key not in st.session_state:
        st.session_state[session_key] = any(path in with_problems or view.is_changed(path) for path in advanced)
    return session_key

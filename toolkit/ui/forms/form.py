"""The form of the settings, for any page: a section, a list of them, or one. The draft (`ui/workspace/workspace.py`) is the truth.

Draws label, widget, the mark of a change with its reset, the switch to several values while a study is on, and the
problems of a setting under it. What is wrong is passed in; how a kind is edited is `widgets.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from toolkit.errors import Problem
from toolkit.settings import ablation, form_layout
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.typed_text import summarize_value
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.forms.widgets import WidgetInput, find_widget_rule
from toolkit.ui.workspace import workspace, workspace_file

MIN_COLUMN = 270
"""Pixels: two columns beside the summary on a small laptop, three on a wide screen, one on a phone."""


@dataclass(frozen=True)
class FormState:
    """The draft and the values tried, read once for many settings: each look at the session costs a lock."""

    draft: drafts.Draft
    grid: ablation.ValueGrid
    ablation_on: bool

    def value(self, path: str) -> Any:
        return drafts.get_setting(self.draft, path)

    def is_changed(self, path: str) -> bool:
        return path in self.grid or drafts.setting_values_differ(default_value(path), self.value(path))


def read_form_state() -> FormState:
    draft = workspace.current_draft()
    on = ablation.uses_ablation(draft)
    return FormState(draft, workspace.current_grid() if on else {}, on)


def render_section(key: str, problems: Sequence[Problem] = (), *, several: bool = True) -> None:
    """Every setting of a section that has an effect now; advanced ones behind a fold, drawn when it is open.

    several: while a study is on, offer several values; False where one value is used at once, whatever a study tries.
    """
    view = read_form_state() if several else FormState(workspace.current_draft(), {}, ablation_on=False)
    render_fields(visible_settings(form_layout.list_section_settings(key, "basic"), problems, view), problems, view)
    advanced = visible_settings(form_layout.list_section_settings(key, "advanced"), problems, view)
    if not advanced:
        return
    fold = st.expander(
        "Advanced", key=_advanced_key(key, advanced, problems, view), icon=":material/tune:", on_change="rerun"
    )
    if fold.open:
        with fold:
            render_fields(advanced, problems, view)


def render_fields(paths: Sequence[str], problems: Sequence[Problem] = (), view: FormState | None = None) -> None:
    """These settings, in as many columns as fit; switches stand above, long texts take the whole width."""
    view = view or read_form_state()
    wide = [path for path in paths if form_layout.get_field_layout(path).rows]
    # a switch among the values of a study is a box like the others
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
    """One setting: its widget, what can be done with it, and what is wrong with it."""
    with st.container(gap="xxsmall"):
        _field(path, problems, view or read_form_state())


def _field(path: str, problems: Sequence[Problem], view: FormState) -> None:
    spec, place = field_specs_by_path()[path], form_layout.get_field_layout(path)
    several = path in view.grid
    value = view.grid[path] if several else view.value(path)
    changed = view.is_changed(path)
    chosen = find_widget_rule(spec, place)
    cell = WidgetInput(
        spec=spec,
        place=place,
        value=value,
        key=f"{'grid' if several else 'field'}:{path}",
        label=_field_label(place, changed),
        help=form_layout.help_text(path),
        save=(lambda new: set_grid_values(path, new)) if several else (lambda new: workspace.set_setting(path, new)),
    )
    switch = chosen.name == "switch" and not several
    middle: Literal["center", "bottom"] = "center" if switch else "bottom"
    # the row is there before any button is: a widget that moves into one later would lose the cursor
    with st.container(horizontal=True, wrap=False, vertical_alignment=middle, gap="xxsmall"):
        (chosen.many if several else chosen.one)(cell)
        _field_actions(path, changed, view)
    if value is None and spec.kind == "flag":
        st.caption(place.when_empty)
    for problem in problems:
        if problem.path == path:
            show_field_problem(problem)


def show_field_problem(problem: Problem) -> None:
    """One remark in small type: red for an error, amber for a warning; its words as text, never as markup."""
    colour, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
    # not st.caption: it fades its colours below what small type needs
    st.markdown(
        f":small[:{colour}[:material/{icon}: {escape_text(problem.message, 500)}] {escape_text(problem.hint, 500)}]"
    )


def visible_settings(
    paths: Sequence[str], problems: Sequence[Problem] = (), view: FormState | None = None
) -> tuple[str, ...]:
    """Those of the settings that have an effect now, and those that are wrong or tried with several values."""
    view = view or read_form_state()
    wrong = {problem.path for problem in problems if problem.severity == "error"}
    shown = (
        path
        for path in paths
        if form_layout.is_setting_shown(path, view.draft, view.grid) or path in wrong or path in view.grid
    )
    return tuple(shown)


def set_grid_values(path: str, values: list[Any]) -> None:
    """Try these values of a setting; the grid keeps the schema's order, so that runs come in the same one."""
    workspace.refresh_workspace()
    grid = {**workspace.current_grid(), path: values}
    order = [spec.path for spec in list_field_specs()]
    workspace.set_grid(dict(sorted(grid.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else -1)))


def use_single_value(path: str) -> None:
    """Back to a single value: the first of the several, when it is usable."""
    workspace.refresh_workspace()
    grid = workspace.current_grid()
    values = grid.pop(path, [])
    workspace.set_grid(grid)
    if values:
        workspace.set_setting(path, values[0])


def reset_setting(path: str) -> None:
    """Back to the default, and to a single value."""
    workspace.refresh_workspace()
    grid = workspace.current_grid()
    if grid.pop(path, None) is not None:
        workspace.set_grid(grid)
    if path in field_specs_by_path():
        workspace.set_setting(path, default_value(path))


def default_value(path: str) -> Any:
    """The default of a setting here: the schema's, but for the folder where the app was told another one."""
    moved = path == "save_dir" and os.environ.get(workspace_file.SAVE_DIR_VARIABLE)
    return str(workspace_file.home_folder()) if moved else field_specs_by_path()[path].default


def reset_several_settings(paths: Sequence[str]) -> None:
    """Several settings back to their defaults at once, with the way back that a preset has."""
    workspace.refresh_workspace()
    grid = {path: values for path, values in workspace.current_grid().items() if path not in paths}
    draft = workspace.current_draft()
    for path in paths:
        draft = drafts.replace_setting(draft, path, default_value(path))
    workspace.replace_draft(draft, grid)


def _field_label(place: form_layout.FieldLayout, changed: bool) -> str:
    unit = f" :gray[· {place.unit}]" if place.unit else ""
    return f"{escape_text(place.label)}{unit}{' :primary[●]' if changed else ''}"


def _field_actions(path: str, changed: bool, view: FormState) -> None:
    several = path in view.grid
    label, default = (
        form_layout.get_field_layout(path).label,
        summarize_value(field_specs_by_path()[path], default_value(path)),
    )
    if view.ablation_on and path not in ablation.STUDY_WIDE_SETTINGS:
        st.button(
            "",
            icon=":material/looks_one:" if several else ":material/stacks:",
            key=f"several:{path}",
            help=f"{label}: back to one value" if several else f"{label}: try several values",
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
    """The fold's key; it opens by itself where something inside is changed or wrong."""
    name = f"advanced:{key}"
    wrong = {problem.path for problem in problems}
    if name not in st.session_state:
        st.session_state[name] = any(path in wrong or view.is_changed(path) for path in advanced)
    return name

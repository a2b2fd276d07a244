"""The form of the settings, for any page: a section, a list of them, or one. The draft (`ui/state.py`) is the truth.

Draws label, widget, the mark of a change with its reset, the switch to several values while a study is on, and the
problems of a setting under it. What is wrong is passed in; how a kind is edited is `widgets.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import streamlit as st

from toolkit import ablation
from toolkit.errors import Problem
from toolkit.forms import draft as drafts
from toolkit.forms import layout
from toolkit.forms.spec import by_path, leaves
from toolkit.forms.written import say
from toolkit.ui import state
from toolkit.ui.plain import plain
from toolkit.ui.widgets import Cell, rule

MIN_COLUMN = 270
"""Pixels: two columns beside the summary on a small laptop, three on a wide screen, one on a phone."""


def render_section(key: str, problems: Sequence[Problem] = ()) -> None:
    """Every setting of a section that has an effect now; advanced ones behind a fold, drawn when it is open."""
    render_fields(visible(layout.paths(key, "basic"), problems), problems)
    advanced = visible(layout.paths(key, "advanced"), problems)
    if not advanced:
        return
    fold = st.expander("Advanced", key=_fold(key, advanced, problems), icon=":material/tune:", on_change="rerun")
    if fold.open:
        with fold:
            render_fields(advanced, problems)


def render_fields(paths: Sequence[str], problems: Sequence[Problem] = ()) -> None:
    """These settings, in as many columns as fit; switches stand above, long texts take the whole width."""
    wide = [path for path in paths if layout.place(path).rows]
    # a switch among the values of a study is a box like the others
    switches = [path for path in paths if layout.place(path).switch and path not in _used_grid()]
    narrow = [path for path in paths if path not in wide and path not in switches]
    for path in switches:
        render_field(path, problems)
    if narrow:
        grid = st.grid(min_column_width=MIN_COLUMN, gap=("small", "medium"))
        for path in narrow:
            with grid.cell():
                render_field(path, problems)
    for path in wide:
        render_field(path, problems)


def render_field(path: str, problems: Sequence[Problem] = ()) -> None:
    """One setting: its widget, what can be done with it, and what is wrong with it."""
    spec, place = by_path()[path], layout.place(path)
    several = _values(path)
    value = several if several is not None else state.value(path)
    changed = several is not None or drafts.differs(default_of(path), value)
    chosen = rule(spec, place)
    cell = Cell(
        spec=spec,
        place=place,
        value=value,
        key=f"{'grid' if several is not None else 'field'}:{path}",
        label=_label(place, changed),
        help=layout.help_text(path),
        save=(lambda new: set_values(path, new)) if several is not None else (lambda new: state.set_value(path, new)),
    )
    with st.container(gap="xxsmall"):
        switch = chosen.name == "switch" and several is None
        row = st.container(
            horizontal=True, wrap=False, vertical_alignment="center" if switch else "bottom", gap="xxsmall"
        )
        with row:
            with st.container(gap="xxsmall", width="content" if switch else "stretch"):
                (chosen.one if several is None else chosen.many)(cell)
            _actions(path, changed, several is not None)
        if several is None and value is None and spec.kind == "flag":
            st.caption(f"{place.empty.capitalize()}")
        for problem in problems:
            if problem.path == path:
                note(problem)


def note(problem: Problem) -> None:
    """One remark in small type: red for an error, amber for a warning; its words as text, never as markup."""
    colour, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
    # not st.caption: it fades its colours below what small type needs
    st.markdown(f":small[:{colour}[:material/{icon}: {plain(problem.message, 500)}] {plain(problem.hint, 500)}]")


def visible(paths: Sequence[str], problems: Sequence[Problem] = ()) -> tuple[str, ...]:
    """Those of the settings that have an effect now, and those that are wrong or tried with several values."""
    draft, grid = state.draft(), _used_grid()
    wrong = {problem.path for problem in problems if problem.severity == "error"}
    return tuple(path for path in paths if layout.is_shown(path, draft, grid) or path in wrong or path in grid)


def set_values(path: str, values: list[Any]) -> None:
    """Try these values of a setting; the grid keeps the schema's order, so that runs come in the same one."""
    grid = {**state.grid(), path: values}
    order = [spec.path for spec in leaves()]
    state.set_grid(dict(sorted(grid.items(), key=lambda entry: order.index(entry[0]) if entry[0] in order else -1)))


def one_value(path: str) -> None:
    """Back to a single value: the first of the several, when it is usable."""
    grid = state.grid()
    values = grid.pop(path, [])
    state.set_grid(grid)
    if values:
        state.set_value(path, values[0])


def reset(path: str) -> None:
    """Back to the default, and to a single value."""
    grid = state.grid()
    if grid.pop(path, None) is not None:
        state.set_grid(grid)
    if path in by_path():
        state.set_value(path, default_of(path))


def default_of(path: str) -> Any:
    """The default of a setting here: the schema's, but for the folder where the app was told another one."""
    moved = path == "save_dir" and os.environ.get(state.ENVIRONMENT)
    return str(state.home()) if moved else by_path()[path].default


def reset_all(paths: Sequence[str]) -> None:
    for path in paths:
        reset(path)


def is_changed(path: str) -> bool:
    return path in _used_grid() or drafts.differs(default_of(path), state.value(path))


def _values(path: str) -> list[Any] | None:
    return _used_grid().get(path)


def _used_grid() -> ablation.Grid:
    return state.grid() if state.value("ablation.use_ablate") is True else {}


def _label(place: layout.Place, changed: bool) -> str:
    unit = f" :gray[· {place.unit}]" if place.unit else ""
    return f"{plain(place.label)}{unit}{' :primary[●]' if changed else ''}"


def _actions(path: str, changed: bool, several: bool) -> None:
    label, default = layout.place(path).label, say(by_path()[path], default_of(path))
    if state.value("ablation.use_ablate") is True and path not in ablation.FIXED:
        st.button(
            "",
            icon=":material/looks_one:" if several else ":material/stacks:",
            key=f"several:{path}",
            help=f"{label}: back to one value" if several else f"{label}: try several values",
            type="tertiary",
            on_click=one_value if several else lambda path=path: set_values(path, [state.value(path)]),
            args=(path,) if several else (),
        )
    if changed:
        st.button(
            "",
            icon=":material/undo:",
            key=f"reset:{path}",
            help=f"{label}: reset to the default, {plain(default)}",
            type="tertiary",
            on_click=reset,
            args=(path,),
        )


def _fold(key: str, advanced: Sequence[str], problems: Sequence[Problem]) -> str:
    """The fold's key; it opens by itself where something inside is changed or wrong."""
    name = f"advanced:{key}"
    wrong = {problem.path for problem in problems}
    if name not in st.session_state:
        st.session_state[name] = any(path in wrong or is_changed(path) for path in advanced)
    return name

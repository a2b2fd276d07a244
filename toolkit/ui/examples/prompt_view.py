"""The two templates beside what they make of a row: the same code that training uses, redrawn while one types."""

from __future__ import annotations

import random

import streamlit as st

from toolkit.data.examples.templates import make_renderer, template_problems
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.system.printable import escape_control_characters
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.examples.template_editor import template_editor
from toolkit.ui.examples.xray_view import show_token_view
from toolkit.ui.frame.page import show_problem
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_with_data
from toolkit.ui.workspace.hard_stop_view import show_hard_stops

MAX_SHOWN_CHARACTERS = 20_000
"""Characters of a text that the screen shows."""
PINNED_PROMPT_LIMIT = 10
SCROLLED_CHARACTERS = 1200
"""A longer text scrolls in a box of its own."""


def show_prompt_workbench(table: Table) -> None:
    """Editors on the left, the chosen row and what it becomes on the right."""
    # what lies below on the page is drawn after this, with the templates as they stand now
    st.session_state["columns_needed"] = _columns_needed(table)
    _workbench(table)


@st.fragment
def _workbench(table: Table) -> None:
    with error_boundary():
        left, right = st.columns(2, gap="large")
        with left:
            _editors(table)
        with right:
            _preview(table)
        if show_token_view(table, int(st.session_state["row"]) - 1):
            show_hard_stops(table, "row")
        _rerun_on_new_columns(table)


def _editors(table: Table) -> None:
    config = config_with_data(workspace.current_draft()["data"])
    problems = template_problems(config, table.columns, table.label) if config else []
    for leaf, title, words in (
        ("prompt", ":blue-badge[Prompt]", "what the model is given"),
        ("prompt_stub", ":green-badge[Completion]", "what it learns to write"),
    ):
        st.markdown(f"{title} {words}")
        template_editor(
            "Prompt template" if leaf == "prompt" else "Completion template",
            str(workspace.current_setting(f"data.{leaf}") or ""),
            table.columns,
            key=f"editor_{leaf}",
            version=workspace.draft_version(),
            save=lambda text, path=f"data.{leaf}": workspace.set_setting(path, text),  # type: ignore[misc]
        )
        for problem in problems:
            if problem.path == f"data.{leaf}":
                show_problem(problem)
    _restore_earlier_templates()


def _restore_earlier_templates() -> None:
    earlier = st.session_state.get("earlier_templates")
    if earlier is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("The earlier templates did not fit these columns.", width="content")
        if st.button("Bring them back", icon=":material/undo:", type="tertiary"):
            now = (str(workspace.current_setting("data.prompt")), str(workspace.current_setting("data.prompt_stub")))
            workspace.replace_templates(*earlier)
            st.session_state["earlier_templates"] = now
            st.rerun()


def _preview(table: Table) -> None:
    index = row_picker(table.rows, "row")
    row = table.row(index)
    try:
        renderer = make_renderer(
            str(workspace.current_setting("data.prompt") or ""),
            str(workspace.current_setting("data.prompt_stub") or ""),
            table.columns,
        )
    except DataError:
        renderer = None
    raw, made = st.columns([2, 3])
    with raw:
        st.markdown(":gray-badge[Row]")
        used = set(renderer.columns_needed) if renderer else set()
        text_block("\n".join(f"{name}{' *' if name in used else ''}: {'(missing)' if cell is None else cell}"
                             for name, cell in row.items()))  # fmt: skip
        st.caption("\\* used by the templates" if used else "")
    with made:
        if renderer is None:
            st.caption("Correct the templates to see what this row becomes.")
        elif not renderer.usable(row):
            st.caption(":material/block: This row is left out: it lacks a cell that the templates use.")
        else:
            example = renderer.example(row)
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                st.markdown(":blue-badge[Prompt]", width="content")
                _pin_button(example.prompt)
            text_block(example.prompt)
            st.markdown(":green-badge[Completion]")
            text_block(example.completion)


def _pin_button(prompt: str) -> None:
    """Put the prompt on the film strip of the next runs, or take it off."""
    pinned = [str(entry) for entry in workspace.current_setting("training.pinned_prompts") or []]
    there = prompt in pinned
    kept = [entry for entry in pinned if entry != prompt] if there else [*pinned, prompt]
    st.button(
        "Unpin" if there else "Pin", icon=":material/keep_off:" if there else ":material/keep:", type="tertiary",
        key="pin_prompt", disabled=not there and len(pinned) >= PINNED_PROMPT_LIMIT,
        help="A pinned prompt is answered at every evaluation: the run's page shows how the answer changes. "
        f"At most {PINNED_PROMPT_LIMIT}; the whole list is on Configure, under Run & saving.",
        on_click=workspace.set_setting, args=("training.pinned_prompts", kept or None),
    )  # fmt: skip


def row_picker(rows: int, key: str) -> int:
    """Previous, next, random, or a number; returns the 0-based row."""
    st.session_state[key] = min(max(int(st.session_state.get(key, 1)), 1), rows)

    def move(step: int) -> None:
        st.session_state[key] = (st.session_state[key] - 1 + step) % rows + 1

    def jump() -> None:
        st.session_state[key] = random.randint(1, rows)  # noqa: S311  which row to look at is no secret

    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(f"Row (of {rows:,})", 1, rows, key=key, width=170)
        st.button("", icon=":material/chevron_left:", help="Previous row", on_click=move, args=(-1,), key=f"{key}_prev")
        st.button("", icon=":material/chevron_right:", help="Next row", on_click=move, args=(1,), key=f"{key}_next")
        st.button("Random", icon=":material/shuffle:", on_click=jump, key=f"{key}_random")
    return int(st.session_state[key]) - 1


def text_block(text: str) -> None:
    """Text from outside, exactly as it is, in a monospace block; what would turn its lines around has its number."""
    shown = escape_control_characters(
        text
        if len(text) <= MAX_SHOWN_CHARACTERS
        else f"{text[:MAX_SHOWN_CHARACTERS]}\n… {len(text) - MAX_SHOWN_CHARACTERS:,} more characters"
    )
    st.code(shown or " ", language=None, wrap_lines=True, height=260 if len(shown) > SCROLLED_CHARACTERS else "content")


def _rerun_on_new_columns(table: Table) -> None:
    """What lies outside of this fragment depends on the columns used: run the page again when they have changed."""
    if _columns_needed(table) != st.session_state["columns_needed"]:
        st.rerun()


def _columns_needed(table: Table) -> tuple[str, ...] | None:
    """The columns that the templates use, or None while they can't be compiled."""
    prompt, stub = str(workspace.current_setting("data.prompt")), str(workspace.current_setting("data.prompt_stub"))
    try:
        return tuple(make_renderer(prompt, stub, table.columns).columns_needed)
    except DataError:
        return None

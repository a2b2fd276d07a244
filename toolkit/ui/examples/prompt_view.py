"""The two templates next to the example that they make of a row, with the code that training uses, updated live."""

from __future__ import annotations

import random

import streamlit as st

from toolkit.data.examples.templates import make_renderer, template_problems
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.system.printable import escape_control_characters
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.examples.suggestion_view import choose_template_columns, show_suggestion
from toolkit.ui.examples.template_editor import template_editor
from toolkit.ui.examples.xray_view import show_token_view
from toolkit.ui.frame.page import show_problem
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_with_data
from toolkit.ui.workspace.hard_stop_view import show_hard_stops

MAX_SHOWN_CHARACTERS = 20_000
"""Characters of a text that the screen shows."""
PINNED_PROMPT_LIMIT = 10
"""Pinned prompts of a run; each is answered at every evaluation and so takes training time."""
SCROLLED_CHARACTERS = 1200
"""Characters from which a text is shown in a scrolling box."""


def show_prompt_workbench(table: Table) -> None:
    """Show the template editors on the left, and the chosen row with its example on the right."""
    # the parts of the page below are drawn after this, so they use the current templates
    st.session_state["columns_needed"] = _columns_needed(table)
    _workbench(table)


@st.fragment
def _workbench(table: Table) -> None:
    with error_boundary():
        with st.container():  # always there: without it the editors would be made anew, and lose the focus, as it goes
            show_suggestion(table)
        choose_template_columns(table)
        left, right = st.columns(2, gap="large")
        with left:
            _editors(table)
        with right:
            _preview(table)
        # the messages of templates that can't be used are above
        if not _find_problems(table, "error") and show_token_view(table, int(st.session_state["row"]) - 1):
            show_hard_stops(table, "row")
        _rerun_on_new_columns(table)


def _find_problems(table: Table, severity: str = "") -> list[Problem]:
    """Return the problems of the templates; of this severity only, if one is given."""
    config = config_with_data(workspace.current_draft()["data"])
    problems = template_problems(config, table.columns, table.label) if config else []
    return [problem for problem in problems if severity in ("", problem.severity)]


def _editors(table: Table) -> None:
    is_untouched = not any(workspace.current_setting(f"data.{leaf}") for leaf in ("prompt", "prompt_stub"))
    problems = [] if is_untouched else _find_problems(table)  # the question above says what to do
    for leaf, title, meaning in (
        ("prompt", ":blue-badge[Prompt]", "the input of the model"),
        ("prompt_stub", ":green-badge[Completion]", "the answer that the model is trained to write"),
    ):
        st.markdown(f"{title} {meaning}")
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
        st.caption("The earlier templates do not fit the columns of this dataset and were replaced.", width="content")
        if st.button("Restore them", icon=":material/undo:", type="tertiary"):
            prompt, stub = workspace.current_setting("data.prompt"), workspace.current_setting("data.prompt_stub")
            workspace.replace_templates(*earlier)
            # swapped, so that another press undoes this one
            st.session_state["earlier_templates"] = (str(prompt), str(stub))
            st.rerun()


def _preview(table: Table) -> None:
    index = row_picker(table.rows, "row")
    row = table.row(index)
    try:
        renderer = make_renderer(
            str(workspace.current_setting("data.prompt") or ""),
            str(workspace.current_setting("data.prompt_stub") or ""),
            table.columns,
            optional=workspace.current_setting("data.optional_columns") or (),
        )
    except DataError:
        renderer = None
    cells_side, example_side = st.columns([2, 3])
    with cells_side:
        st.markdown(":gray-badge[Row]")
        used = set(renderer.columns_needed) if renderer else set()
        lines = [
            f"{name}{' *' if name in used else ''}: {'(missing)' if cell is None else cell}"
            for name, cell in row.items()
        ]
        text_block("\n".join(lines))
        st.caption("\\* used by the templates" if used else "")
    with example_side:
        if renderer is None:
            st.caption("Correct the templates to see the example of this row.")
        elif not renderer.usable(row):
            st.caption(":material/block: This row is skipped: a cell that the templates use is missing.")
        else:
            example = renderer.example(row)
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                st.markdown(":blue-badge[Prompt]", width="content")
                _pin_button(example.prompt)
            text_block(example.prompt)
            st.markdown(":green-badge[Completion]")
            text_block(example.completion)


def _pin_button(prompt: str) -> None:
    """Draw the button that adds the prompt to the sample outputs during training, or removes it."""
    pinned = [str(entry) for entry in workspace.current_setting("training.pinned_prompts") or []]
    is_pinned = prompt in pinned
    changed = [entry for entry in pinned if entry != prompt] if is_pinned else [*pinned, prompt]
    st.button(
        "Unpin" if is_pinned else "Pin",
        icon=":material/keep_off:" if is_pinned else ":material/keep:",
        type="tertiary",
        key="pin_prompt",
        disabled=not is_pinned and len(pinned) >= PINNED_PROMPT_LIMIT,
        help="The model answers pinned prompts at every evaluation, and the Runs page shows the answers under Sample "
        f"outputs during training. At most {PINNED_PROMPT_LIMIT} prompts; edit the list on the Configure page, under "
        "Run & saving.",
        on_click=workspace.set_setting,
        args=("training.pinned_prompts", changed or None),
    )


def row_picker(rows: int, key: str) -> int:
    """Draw the row number with Previous, Next and Random, and return the 0-based row. key: of the 1-based number."""
    st.session_state[key] = min(max(int(st.session_state.get(key, 1)), 1), rows)

    def move(step: int) -> None:
        st.session_state[key] = (st.session_state[key] - 1 + step) % rows + 1

    def jump() -> None:
        st.session_state[key] = random.randint(1, rows)  # noqa: S311  not used for security

    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.number_input(f"Row (of {rows:,})", 1, rows, key=key, width=170)
        st.button("", icon=":material/chevron_left:", help="Previous row", on_click=move, args=(-1,), key=f"{key}_prev")
        st.button("", icon=":material/chevron_right:", help="Next row", on_click=move, args=(1,), key=f"{key}_next")
        st.button("Random", icon=":material/shuffle:", on_click=jump, key=f"{key}_random")
    return int(st.session_state[key]) - 1


def text_block(text: str) -> None:
    """Show a text as it is in a monospace block; control and bidirectional characters are shown by their code."""
    if len(text) > MAX_SHOWN_CHARACTERS:
        text = f"{text[:MAX_SHOWN_CHARACTERS]}\n… {len(text) - MAX_SHOWN_CHARACTERS:,} more characters"
    shown = escape_control_characters(text)
    st.code(shown or " ", language=None, wrap_lines=True, height=260 if len(shown) > SCROLLED_CHARACTERS else "content")


def _rerun_on_new_columns(table: Table) -> None:
    """Rerun the page when the used columns change: parts of the page outside this fragment depend on them."""
    if _columns_needed(table) != st.session_state["columns_needed"]:
        st.rerun()


def _columns_needed(table: Table) -> tuple[str, ...] | None:
    """Return the columns that the templates use; None while they can't be compiled."""
    prompt, stub = str(workspace.current_setting("data.prompt")), str(workspace.current_setting("data.prompt_stub"))
    try:
        return tuple(make_renderer(prompt, stub, table.columns).columns_needed)
    except DataError:
        return None

"""The question which columns to train on, with each choice rendered, and what a suggestion has to tell."""

from __future__ import annotations

import streamlit as st

from toolkit.data.examples.optional_columns import find_optional_columns
from toolkit.data.examples.templates import make_renderer
from toolkit.data.table import Table, TableRow
from toolkit.system.printable import escape_control_characters
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import suggest_cached_columns

MAX_PREVIEW_CHARACTERS = 300
"""Characters of the prompt and of the completion in the preview of a choice."""

TEMPLATE_LEAVES = ("prompt", "prompt_stub")
COLUMN_LABELS = ("Column to read (prompt)", "Column to answer (completion)")


def show_suggestion(table: Table) -> None:
    """Ask for the columns while both templates are empty; show the notes of the suggestion while it is in use."""
    suggestion = suggest_cached_columns(table)
    used = tuple(str(workspace.current_setting(f"data.{leaf}") or "") for leaf in ("prompt", "prompt_stub"))
    is_open = used == ("", "")
    if is_open or used in (*suggestion.candidates, (suggestion.prompt, suggestion.completion)):
        for note in suggestion.notes:
            st.caption(f":material/info: {escape_text(note, 500)}")
    if is_open:
        _ask_columns(table, suggestion.candidates)


def _ask_columns(table: Table, candidates: tuple[tuple[str, str], ...]) -> None:
    if not candidates:
        st.caption(":material/help: Insert the columns to train on into the two templates.")
        return
    st.markdown(
        ":material/help: **Choose what to train on.** Each choice with one of your rows; all columns are below."
    )
    row = table.row(_first_complete_row(table))
    grid = st.grid(min_column_width=300)
    for at, (prompt, completion) in enumerate(candidates):
        with grid.cell(), st.container(border=True, gap="xsmall", height="stretch", key=f"candidate_{at}"):
            optional = find_optional_columns(prompt, completion, table)
            renderer = make_renderer(prompt, completion, table.columns, optional=optional)
            filled = {**row, **{column: row.get(column) or "" for column in optional}}
            for name, template, compiled in (
                (":blue-badge[Prompt]", prompt, renderer.prompt_template),
                (":green-badge[Completion]", completion, renderer.stub_template),
            ):
                missing = any(row.get(column) is None for column in compiled.columns if column not in optional)
                st.markdown(f"{name} :gray[{escape_text(' '.join(template.split()), 200) or 'empty'}]")
                if template:
                    st.caption(escape_text("(missing)" if missing else compiled.render(filled), MAX_PREVIEW_CHARACTERS))
            st.button(
                "Use these columns",
                key=f"use_candidate_{at}",
                icon=":material/check:",
                on_click=workspace.use_suggested_templates,
                args=(prompt, completion, table),
            )


def choose_template_columns(table: Table) -> None:
    """Draw the choice of one column for each template, which is all that most datasets need.

    A template that is more than one column shows as such. The editors below take any text.
    """
    labels = distinguish_labels({name: escape_control_characters(name)[:100] for name in table.columns})
    for box, leaf, label in zip(st.columns(2, gap="large"), TEMPLATE_LEAVES, COLUMN_LABELS, strict=True):
        template = str(workspace.current_setting(f"data.{leaf}") or "")
        column = template[1:-1] if template.startswith("{") and template[1:-1] in table.columns else None
        # a new key for each template: the box follows the editor
        key = f"column_{leaf}_{workspace.draft_version()}_{template[:200]}"
        box.selectbox(
            label,
            table.columns,
            index=None if column is None else table.columns.index(column),
            placeholder="Custom template" if template else "Choose a column",
            format_func=labels.__getitem__,
            key=key,
            on_change=_use_column,
            args=(leaf, key, table, workspace.draft_version(), template),
        )


def _use_column(leaf: str, key: str, table: Table, version: int, template: str) -> None:
    """Use the chosen column.

    version, template: of the draft when the box was drawn. A box that was drawn in an interrupted run reports its
    column later as a change; it counts only while the draft is still the one that the box shows.
    """
    if (version, template) != (workspace.draft_version(), str(workspace.current_setting(f"data.{leaf}") or "")):
        return
    chosen = st.session_state[key]
    templates = {other: str(workspace.current_setting(f"data.{other}") or "") for other in TEMPLATE_LEAVES}
    templates[leaf] = f"{{{chosen}}}" if chosen is not None else ""
    workspace.use_suggested_templates(templates["prompt"], templates["prompt_stub"], table)


def _first_complete_row(table: Table) -> int:
    """Return the first row without missing cells among the first ones, else row 0."""
    rows: list[TableRow] = table.page(0, 50)
    return next((at for at, row in enumerate(rows) if all(row.values())), 0)

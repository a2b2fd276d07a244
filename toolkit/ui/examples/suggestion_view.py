"""The question which columns to train on, with each choice rendered, and what a suggestion has to tell."""

from __future__ import annotations

import streamlit as st

from toolkit.data.examples.optional_columns import find_optional_columns
from toolkit.data.examples.templates import make_renderer
from toolkit.data.table import Table, TableRow
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import suggest_cached_columns

MAX_PREVIEW_CHARACTERS = 300
"""Characters of the prompt and of the completion in the preview of a choice."""


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
    st.markdown(":material/help: **Choose what to train on.** The first row with each choice, or write the templates:")
    row = table.row(_first_complete_row(table))
    for at, (prompt, completion) in enumerate(candidates):
        with st.container(border=True, gap="xsmall", key=f"candidate_{at}"):
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


def _first_complete_row(table: Table) -> int:
    """Return the first row without missing cells among the first ones, else row 0."""
    rows: list[TableRow] = table.page(0, 50)
    return next((at for at, row in enumerate(rows) if all(row.values())), 0)

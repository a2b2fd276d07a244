"""Make the renderer that the data settings ask for: two templates, or a column of conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.config import DataConfig
from toolkit.data.conversations import format_conversation, format_message, parse_conversation
from toolkit.data.examples.templates import (
    CompiledTemplate,
    Example,
    Renderer,
    TemplatePiece,
    TemplateRow,
    make_renderer,
)
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem


def renderer_of(data: DataConfig, columns: Sequence[str], label: str = "") -> Renderer:
    """Return the renderer for the data settings. label: the name of the table that has the columns.

    Raises DataError for templates that don't compile and for a column of conversations that does not exist.
    """
    if data.messages is None:
        return make_renderer(data.prompt, data.prompt_stub, columns, label, data.optional_columns or ())
    if data.messages not in columns:
        where = f"No column of {label}" if label else "No column"
        raise DataError(f"{where} is named '{data.messages[:60]}'.", "Choose the column that contains conversations.")
    return chat_renderer(data.messages)


def chat_renderer(column: str) -> ChatRenderer:
    """Return the renderer for a column of conversations. It has no prompt template."""
    stub = CompiledTemplate((TemplatePiece(column, is_column=True),))
    return ChatRenderer(CompiledTemplate(()), stub, column=column)


def chat_problems(data: DataConfig, table: Table) -> list[Problem]:
    """Return why the conversations of a table can't be trained on, under data.messages; empty for templates."""
    column = data.messages
    if column is None or column not in table.columns:
        return []
    fault = table.chats.get(column, f"Column '{column}' contains no conversations.")
    can_skip = any(offer.options.bad_rows == "skip" for offer in table.offers)
    skip = "Skip these rows (Reading options), correct" if can_skip else "Correct"
    hint = f"{skip} the file, or train on templates instead."
    return [Problem("data.messages", fault, hint)] if fault else []


@dataclass(frozen=True)
class ChatRenderer(Renderer):
    """Renders a column whose cells are conversations. Its stub template is that column."""

    column: str = ""

    def example(self, row: TemplateRow) -> Example:
        return _example(row[self.column] or "")

    def examples(self, cells: Mapping[str, Sequence[str]], count: int) -> Iterator[Example]:
        return map(_example, cells[self.column])


def _example(cell: str) -> Example:
    messages = parse_conversation(cell)
    return Example(format_conversation(messages[:-1]), format_message(messages[-1]), messages)

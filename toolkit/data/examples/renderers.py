"""From the data settings to the one way in which a row becomes an example: two templates, or a column of conversations.

Knows no file and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.config import DataConfig
from toolkit.data.conversations import TOOL_COLUMNS, format_conversation, parse_conversation
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
    """Raises DataError for templates that don't compile and for a column of conversations that is not there.

    label: the name of the table that has the columns.
    """
    if data.messages is None:
        return make_renderer(data.prompt, data.prompt_stub, columns, label)
    if data.messages not in columns:
        where = f"No column of {label}" if label else "No column"
        raise DataError(f"{where} is named '{data.messages[:60]}'.", "Choose the column that holds conversations.")
    return chat_renderer(data.messages)


def chat_renderer(column: str) -> ChatRenderer:
    """For a column whose cells are conversations: nothing of them is prompt alone."""
    return ChatRenderer(CompiledTemplate(()), CompiledTemplate((TemplatePiece(column, is_column=True),)), column)


def chat_problems(data: DataConfig, table: Table) -> list[Problem]:
    """Why the conversations of a table can't be trained on, under data.messages; empty for templates."""
    column = data.messages
    if column is None or column not in table.columns:
        return []
    tools = [name for name in TOOL_COLUMNS if name in table.columns and table.missing[name] < table.rows]
    fault = table.chats.get(column, f"Column '{column}' holds no conversations.")
    if tools and not fault:
        fault = f"Column '{tools[0]}' lists tools: tool calls are not trained here."
    hint = "Leave these rows out (Reading options), correct the file, or train on templates instead."
    return [Problem("data.messages", fault, hint)] if fault else []


@dataclass(frozen=True)
class ChatRenderer(Renderer):
    """Each cell of one column is a conversation; the stub's template stands for it whole."""

    column: str = ""

    def example(self, row: TemplateRow) -> Example:
        return _example(row[self.column] or "")

    def examples(self, cells: Mapping[str, Sequence[str]], count: int) -> Iterator[Example]:
        return map(_example, cells[self.column])


def _example(cell: str) -> Example:
    turns = parse_conversation(cell)
    return Example(format_conversation(turns[:-1]), turns[-1].content, turns)

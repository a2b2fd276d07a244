"""The template compiler: compile text with {column} in it, and render a row as a training example.

The grammar is literal text, {column}, {{ and }}. A name must equal a column's name and may contain anything but braces;
there are no attributes, indices, conversions or formats. A cell is inserted unchanged and never parsed as a template.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

from toolkit.config import Config, DataConfig
from toolkit.data.chat_messages import Message
from toolkit.data.read_options import MAX_LISTED
from toolkit.data.table import index_visible_columns, make_visible
from toolkit.errors import DataError, Problem

MAX_TEMPLATE = 20_000
"""Characters of the longest template."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SYNTAX = re.compile(r"[.\[!:]")
TemplateRow = Mapping[str, str | None]


@dataclass(frozen=True)
class TemplatePiece:
    """Literal text, or with `is_column` the name of the column whose cell is inserted."""

    text: str
    is_column: bool = False


@dataclass(frozen=True)
class CompiledTemplate:
    """A compiled template: its pieces in order, with no two literals next to each other."""

    pieces: tuple[TemplatePiece, ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns used, each once, in the order of their first use."""
        return tuple(dict.fromkeys(piece.text for piece in self.pieces if piece.is_column))

    def render(self, row: TemplateRow) -> str:
        """Return the text for one row. Raises DataError when a used cell is missing."""
        return "".join(_cell(row, piece.text) if piece.is_column else piece.text for piece in self.pieces)

    def render_many(self, cells: Mapping[str, Sequence[str]], count: int) -> list[str]:
        """Return the texts of `count` rows, equal to `render` of each. cells: a list of texts for every used column."""
        if not self.pieces:
            return [""] * count
        parts = [cells[piece.text] if piece.is_column else repeat(piece.text, count) for piece in self.pieces]
        return list(map("".join, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Example:
    """A training example: `completion` is to be written after `prompt`.

    turns: the whole conversation if the row is one. Then `completion` is its last message, and `prompt` shows the
    messages before as readable text.
    """

    prompt: str
    completion: str
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Makes the text of a row for preview, training, evaluation and playground alike.

    optional: columns whose missing cells count as empty text.
    """

    prompt_template: CompiledTemplate
    stub_template: CompiledTemplate
    optional: tuple[str, ...] = ()

    @cached_property
    def columns_needed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.prompt_template.columns + self.stub_template.columns))

    @cached_property
    def columns_required(self) -> tuple[str, ...]:
        """The used columns in which no cell may be missing."""
        return tuple(column for column in self.columns_needed if column not in self.optional)

    def usable(self, row: TemplateRow) -> bool:
        """Return whether no required cell is missing; other rows are skipped before the split (`split.plan_split`)."""
        return all(row.get(column) is not None for column in self.columns_required)

    def prompt(self, row: TemplateRow) -> str:
        """Return the prompt. Only the prompt's columns may not be missing."""
        return self.prompt_template.render(self._filled(row))

    def example(self, row: TemplateRow) -> Example:
        """Return the example of a row. Raises DataError when the row is not usable."""
        filled = self._filled(row)
        return Example(self.prompt_template.render(filled), self.stub_template.render(filled))

    def examples(self, cells: Mapping[str, Sequence[str]], count: int) -> Iterator[Example]:
        """Yield what `example` returns for each of `count` usable rows, many times faster."""
        optional = {column: [cell or "" for cell in cells[column]] for column in self.optional if column in cells}
        cells = {**cells, **optional} if optional else cells
        prompts, stubs = (template.render_many(cells, count) for template in (self.prompt_template, self.stub_template))
        return map(Example, prompts, stubs)

    def _filled(self, row: TemplateRow) -> TemplateRow:
        return {**row, **{column: row.get(column) or "" for column in self.optional}} if self.optional else row


def compile_template(text: str, columns: Sequence[str], label: str = "") -> CompiledTemplate:
    """Compile `text` against the table's column names. label: the table's name, for error messages.

    Raises DataError with every mistake and its position; for an unknown column it suggests the nearest name.
    """
    pieces, mistakes = _parse(text, columns, label)
    if mistakes:
        raise DataError("\n".join(message for message, _ in mistakes), mistakes[0][1])
    return CompiledTemplate(tuple(pieces))


def make_renderer(
    prompt: str, stub: str, columns: Sequence[str], label: str = "", optional: Sequence[str] = ()
) -> Renderer:
    """Compile both templates. Raises DataError like `compile_template`. optional: as in `Renderer`."""
    context, answer = compile_template(prompt, columns, label), compile_template(stub, columns, label)
    used = [column for column in optional if column in context.columns and column not in answer.columns]
    return Renderer(context, answer, tuple(used))


def template_problems(config: Config, columns: Sequence[str], label: str = "") -> list[Problem]:
    """Return all problems of the two templates, under data.prompt and data.prompt_stub.

    If data.messages is set, the templates are unused, and its problems are returned. label: the name of the table.
    """
    if config.data.messages is not None:
        return _messages_problems(config.data, columns, label)
    found: list[Problem] = []
    used: dict[str, int] = {}
    for leaf in ("prompt", "prompt_stub"):
        text = getattr(config.data, leaf)
        pieces, mistakes = _parse(text, columns, label)
        found += [Problem(f"data.{leaf}", message, hint) for message, hint in mistakes]
        used[leaf] = len(mistakes) + sum(piece.is_column for piece in pieces)
    if not config.data.prompt_stub.strip():
        found.append(
            Problem("data.prompt_stub", "It is empty: there is nothing to learn.", "Insert the answer column.")
        )
    elif not used["prompt_stub"]:
        message = "It uses no column: every row would teach the same text."
        found.append(Problem("data.prompt_stub", message, "Insert the column that contains the answer."))
    if not used["prompt"]:
        message = "It uses no column: every row would have the same prompt."
        hint = "Insert a column, unless the model should learn to write answers without any input."
        found.append(Problem("data.prompt", message, hint, "warning"))
    return found


def _messages_problems(data: DataConfig, columns: Sequence[str], label: str) -> list[Problem]:
    column = data.messages or ""
    if column not in columns:
        near = find_nearest_column(column, columns)
        hint = f"Did you mean '{near}'?" if near else "Clear it to train on the prompt and completion templates."
        return [Problem("data.messages", f"{_no_column(label)} is named '{column[:60]}'.", hint)]
    if data.use_chat_template is False:
        message = "Conversations need the model's chat template, but it is turned off."
        return [Problem("data.use_chat_template", message, "Turn it on, or clear the setting.")]
    return []


def _cell(row: TemplateRow, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError(f"The row has no value for column '{column}'.", "Fill the cell, or skip the row.")
    return value


def _no_column(label: str) -> str:
    return f"No column of {label}" if label else "No column"


def _parse(text: str, columns: Sequence[str], label: str = "") -> tuple[list[TemplatePiece], list[tuple[str, str]]]:
    """Return (pieces, mistakes); a mistake is (message, hint)."""
    if len(text) > MAX_TEMPLATE:
        message = f"The template has {len(text):,} characters; at most {MAX_TEMPLATE:,} are allowed."
        return [], [(message, "Move the long part into a column of the data.")]
    known = set(columns)
    visible = index_visible_columns(columns)
    mistake_count = 0
    pieces: list[TemplatePiece] = []
    mistakes: list[tuple[str, str]] = []
    literal: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        literal.append(text[end : match.start()])
        end = match.end()
        name = match.group(1)
        if match.group() in ("{{", "}}"):
            literal.append(match.group()[0])
        elif name is not None and (column := name if name in known else visible.get(make_visible(name))):
            pieces += [TemplatePiece("".join(literal)), TemplatePiece(column, is_column=True)]
            literal = []
        else:
            mistake_count += 1
            if mistake_count <= MAX_LISTED:  # each is compared with every column, and pasted code has thousands
                mistakes.append(_mistake(match, columns, label))
    if mistake_count > MAX_LISTED:
        further = mistake_count - MAX_LISTED
        mistakes.append((f"Mistakes not listed: {further:,}.", "Correct these first."))
    pieces.append(TemplatePiece("".join(literal) + text[end:]))
    return [piece for piece in pieces if piece.is_column or piece.text], mistakes


def _mistake(match: re.Match[str], columns: Sequence[str], label: str) -> tuple[str, str]:
    place = _place(match.string, match.start())
    name = match.group(1)
    escape_hint = "To write a brace as text, double it: {{ or }}."
    if name is None:
        return f"There is an unmatched {match.group()} at {place}.", escape_hint
    if not name.strip():
        return f"There is no column name in {match.group()} at {place}.", "Put a column's name between the braces."
    shown = name if len(name) <= 60 else name[:57] + "..."
    message = f"{_no_column(label)} is named '{shown}' (at {place})."
    near = find_nearest_column(name, columns)
    if near is None and _SYNTAX.search(name):
        near = find_nearest_column(_SYNTAX.split(name)[0], columns)
    if _SYNTAX.search(name):
        message += " Only {column}, {{ and }} are allowed: no dots, brackets or formats."
    if near is not None:
        return message, f"Did you mean {{{near}}}?"
    listed = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
    return message, f"The columns are: {listed}. {escape_hint}" if columns else escape_hint


def find_nearest_column(name: str, columns: Sequence[str]) -> str | None:
    """Return the column that `name` most likely means: equal apart from case and outer spaces, or else similar."""
    folded = name.strip().casefold()
    for column in columns:
        if column.strip().casefold() == folded:
            return column
    close = difflib.get_close_matches(folded, [column.casefold() for column in columns], n=1, cutoff=0.6)
    return next((column for column in columns if column.casefold() == close[0]), None) if close else None


def _place(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f"character {column}" if "\n" not in text else f"line {line}, character {column}"

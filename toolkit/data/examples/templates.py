"""The template compiler: text with {column} in it becomes a list of pieces, and a row becomes a training example.

The grammar is literal text, {column}, {{ and }}. A name is compared with the columns exactly and may hold anything but
braces; there is no attribute, index, conversion or format. A cell is joined in as it is and never read as a template.
Knows no file, no tokenizer and no chat template.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

from toolkit.config import Config, DataConfig
from toolkit.data.conversations import Message
from toolkit.errors import DataError, Problem

MAX_TEMPLATE = 20_000
"""Longest template, in characters."""

MAX_LISTED_MISTAKES = 10
"""Mistakes of a template that are told."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SYNTAX = re.compile(r"[.\[!:]")
TemplateRow = Mapping[str, str | None]


@dataclass(frozen=True)
class TemplatePiece:
    """Literal text, or, with `is_column`, the name of the column whose cell goes here."""

    text: str
    is_column: bool = False


@dataclass(frozen=True)
class CompiledTemplate:
    """A compiled template; `pieces` in order, neighbouring literals joined."""

    pieces: tuple[TemplatePiece, ...]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns used, each once, in order of first use."""
        return tuple(dict.fromkeys(piece.text for piece in self.pieces if piece.is_column))

    def render(self, row: TemplateRow) -> str:
        """The text for one row. Raises DataError when a used cell is missing."""
        return "".join(_cell(row, piece.text) if piece.is_column else piece.text for piece in self.pieces)

    def render_many(self, cells: Mapping[str, Sequence[str]], count: int) -> list[str]:
        """The texts of `count` rows, equal to `render` of each; `cells` has a list of texts for every used column."""
        if not self.pieces:
            return [""] * count
        parts = [cells[piece.text] if piece.is_column else repeat(piece.text, count) for piece in self.pieces]
        return list(map("".join, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Example:
    """What one row teaches: after `prompt`, to write `completion`. turns: the whole conversation where the row is one;
    then `completion` is its last answer and `prompt` what comes before, as a person reads it."""

    prompt: str
    completion: str
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """The one way from a row to the text that preview, training, evaluation and playground share."""

    prompt_template: CompiledTemplate
    stub_template: CompiledTemplate

    @cached_property
    def columns_needed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.prompt_template.columns + self.stub_template.columns))

    def usable(self, row: TemplateRow) -> bool:
        """False when a used cell is missing: such a row is left out, before splitting (`split.plan_split`)."""
        return all(row.get(column) is not None for column in self.columns_needed)

    def prompt(self, row: TemplateRow) -> str:
        """The prompt alone: the row needs the prompt's columns only."""
        return self.prompt_template.render(row)

    def example(self, row: TemplateRow) -> Example:
        """Raises DataError when the row is not usable."""
        return Example(self.prompt_template.render(row), self.stub_template.render(row))

    def examples(self, cells: Mapping[str, Sequence[str]], count: int) -> Iterator[Example]:
        """`example` for `count` usable rows at once: the same texts, many times faster."""
        prompts, stubs = (template.render_many(cells, count) for template in (self.prompt_template, self.stub_template))
        return map(Example, prompts, stubs)


def compile_template(text: str, columns: Sequence[str], label: str = "") -> CompiledTemplate:
    """Compile `text` against the table's column names. label: the table's name, for the words of an error.

    Raises DataError with every mistake and its place; an unknown column comes with the nearest name.
    """
    pieces, mistakes = _parse(text, columns, label)
    if mistakes:
        raise DataError("\n".join(message for message, _ in mistakes), mistakes[0][1])
    return CompiledTemplate(tuple(pieces))


def make_renderer(prompt: str, stub: str, columns: Sequence[str], label: str = "") -> Renderer:
    """Compile both templates; raises DataError like `compile_template`."""
    return Renderer(compile_template(prompt, columns, label), compile_template(stub, columns, label))


def template_problems(config: Config, columns: Sequence[str], label: str = "") -> list[Problem]:
    """Everything wrong with the two templates, under data.prompt and data.prompt_stub; or with data.messages, where
    that makes them unused. label: the name of the table that has the columns."""
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
            Problem("data.prompt_stub", "It is empty: there is nothing to learn.", "Insert the column to learn.")
        )
    elif not used["prompt_stub"]:
        message = "It uses no column: every row would teach the same words."
        found.append(Problem("data.prompt_stub", message, "Insert the column that holds the answer."))
    if not used["prompt"]:
        message = "It uses no column: every row would have the same prompt."
        hint = "Insert a column, unless the model shall learn to write the answers from nothing."
        found.append(Problem("data.prompt", message, hint, "warning"))
    return found


def _messages_problems(data: DataConfig, columns: Sequence[str], label: str) -> list[Problem]:
    column = data.messages or ""
    if column not in columns:
        near = find_nearest_column(column, columns)
        hint = f"Did you mean '{near}'?" if near else "Empty it to train on the two templates."
        return [Problem("data.messages", f"{_no_column(label)} is named '{column[:60]}'.", hint)]
    if data.use_chat_template is False:
        message = "Conversations need the model's chat template, and it is switched off."
        return [Problem("data.use_chat_template", message, "Switch it on, or leave it empty.")]
    return []


def _cell(row: TemplateRow, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError(f"The row has no value for column '{column}'.", "Fill the cell, or leave the row out.")
    return value


def _no_column(label: str) -> str:
    return f"No column of {label}" if label else "No column"


def _parse(text: str, columns: Sequence[str], label: str = "") -> tuple[list[TemplatePiece], list[tuple[str, str]]]:
    """(pieces, mistakes), a mistake being (message, hint)."""
    if len(text) > MAX_TEMPLATE:
        message = f"The template has {len(text):,} characters; at most {MAX_TEMPLATE:,} are allowed."
        return [], [(message, "Move the long part into a column of the data.")]
    known = set(columns)
    wrong = 0
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
        elif name is not None and name in known:
            pieces += [TemplatePiece("".join(literal)), TemplatePiece(name, is_column=True)]
            literal = []
        else:
            wrong += 1
            if wrong <= MAX_LISTED_MISTAKES:  # each is compared with every column: a pasted program has thousands
                mistakes.append(_mistake(match, columns, label))
    if wrong > MAX_LISTED_MISTAKES:
        mistakes.append((f"There are {wrong - MAX_LISTED_MISTAKES:,} more mistakes.", "Correct these first."))
    pieces.append(TemplatePiece("".join(literal) + text[end:]))
    return [piece for piece in pieces if piece.is_column or piece.text], mistakes


def _mistake(match: re.Match[str], columns: Sequence[str], label: str) -> tuple[str, str]:
    place = _place(match.string, match.start())
    name = match.group(1)
    double = "To write a brace itself, double it: {{ or }}."
    if name is None:
        return f"There is a lone {match.group()} at {place}.", double
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
    return message, f"The columns are: {listed}. {double}" if columns else double


def find_nearest_column(name: str, columns: Sequence[str]) -> str | None:
    """The column that `name` most likely means: by case and outer spaces first, then by similarity."""
    wanted = name.strip().casefold()
    for column in columns:
        if column.strip().casefold() == wanted:
            return column
    close = difflib.get_close_matches(wanted, [column.casefold() for column in columns], n=1, cutoff=0.6)
    return next((column for column in columns if column.casefold() == close[0]), None) if close else None


def _place(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f"character {column}" if "\n" not in text else f"line {line}, character {column}"

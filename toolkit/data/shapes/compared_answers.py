"""Two answers to the same prompt, and a column that says which one won: the winner's is trained.

Chatbot Arena, LMSYS, PKU-SafeRLHF and HelpSteer write comparisons like this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.data.chat_messages import expand_pairs
from toolkit.data.conversations import is_blank_cell, is_chat
from toolkit.data.examples import column_names as names
from toolkit.data.shapes.message_cells import find_listed_messages, load_cell, read_cell_messages, starts_conversation
from toolkit.data.shapes.other_conversations import OtherConversations
from toolkit.data.table import TableRow

_SIDE = re.compile(r"(.+?) ?([ab]|[012])")
_MORE_ANSWERS = frozenset(
    ("conversation", "chat", "assistant", "summary", "candidate", "generation", "text", "message")
)
_WINNERS = (
    "winner",
    "winner model",
    "preference",
    "preferred",
    "preferred response",
    "preferred answer",
    "choice",
    "chosen",
    "better",
    "better response",
    "better response id",
    "better answer",
    "best response",
    "best",
    "selected",
    "overall preference",
    "preference strength",
    "human preference",
    "vote",
    "safer response id",
)
"""Columns that say which answer won, the likeliest first."""
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "messages", "conversation", "post")
_TIES = frozenset(("tie", "tie bothbad", "both", "both bad", "neither", "none", "equal", "same", "draw", ""))
_ABOUT = frozenset(("model", "response", "answer", "output", "completion", "assistant", "option", "candidate"))
_STRENGTH = re.compile(r"-?\d")

Choice = Callable[[TableRow], str | None]
"""Returns the column of the answer that won in a row, None for none."""


def find_compared_answers(columns: Sequence[str], rows: Sequence[TableRow]) -> OtherConversations | None:
    """Return how to read the answers that won, None if a table compares none. columns: those with cells."""
    named = {names.normalize_column_name(column): column for column in reversed(columns)}
    for stem, sides in _answer_pairs(named).items():
        prompts = [] if _are_conversations([*sides.values()], rows) else _prompt_columns(named)
        found = _find_choice(named, stem, sides, rows)
        if found is None or not (prompts or _are_conversations([*sides.values()], rows)):
            continue
        verdicts, choose = found
        answers = " and ".join(f"'{column}'" for column in sides.values())
        notice = f"Of the answers in {answers}, the one that '{verdicts[0]}' names is trained."
        used = (*prompts, *sides.values(), *verdicts)
        return OtherConversations(used, _reader(prompts, choose), f"{notice} Rows that name none are skipped.")
    return None


def _prompt_columns(named: Mapping[str, str]) -> list[str]:
    """Return the columns of the prompt, such as a context and a question, or an instruction and its input."""
    main = next((name for name in _PROMPTS if name in named), None)
    if main is None:
        return []
    parts = ("context" if main != "context" else "", main, "input" if main == "instruction" else "")
    return [named[name] for name in parts if name in named]


def _answer_pairs(named: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the pairs of columns that differ in their last letter or number: stem -> suffix -> column."""
    found: dict[str, dict[str, str]] = {}
    for name, column in named.items():
        match = _SIDE.fullmatch(name)
        if match and (match.group(1) in _MORE_ANSWERS or match.group(1) in names.ANSWERS):
            found.setdefault(match.group(1), {})[match.group(2)] = column
    pairs = (("a", "b"), ("1", "2"), ("0", "1"))
    return {stem: dict(sorted(sides.items())) for stem, sides in found.items() if tuple(sorted(sides)) in pairs}


def _find_choice(
    named: Mapping[str, str], stem: str, sides: Mapping[str, str], rows: Sequence[TableRow]
) -> tuple[tuple[str, ...], Choice] | None:
    """Return (columns that say which answer won, how)."""
    for name in (*_WINNERS, *(["label"] if "a" in sides else [])):
        column = named.get(name)
        cells = [(row.get(column) or "").strip() for row in rows] if column is not None else []
        if column is None or not any(cells):
            continue
        if all(_STRENGTH.fullmatch(cell) for cell in cells if cell) and any(cell.startswith("-") for cell in cells):
            return (column,), _by_strength(column, *sides.values())
        read = [_named_side(cell, stem) for cell in cells]
        if all(side in sides or side in _TIES for side in read) and any(side in sides for side in read):
            return (column,), _by_name(column, stem, sides)
    marks = {side: named.get(f"winner model {side}", named.get(f"winner {side}")) for side in sides}
    if None in marks.values():
        return None

    def choose(row: TableRow) -> str | None:
        won = [side for side, mark in marks.items() if (row.get(str(mark)) or "").strip().casefold() in ("1", "true")]
        return sides[won[0]] if len(won) == 1 else None

    return tuple(map(str, marks.values())), choose


def _by_name(column: str, stem: str, sides: Mapping[str, str]) -> Choice:
    return lambda row: sides.get(_named_side(row.get(column) or "", stem))


def _by_strength(column: str, first: str, second: str) -> Choice:
    """HelpSteer's -3 to 3: below zero the first answer is better."""

    def choose(row: TableRow) -> str | None:
        strength = (row.get(column) or "0").strip()
        return None if strength == "0" else first if strength.startswith("-") else second

    return choose


def _named_side(cell: str, stem: str) -> str:
    """Return the letter or number in a cell such as "model_a" or "response 1"; another cell in words."""
    words = names.normalize_column_name(cell).split()
    if len(words) > 1 and (words[0] in _ABOUT or words[0] == stem):
        words = words[1:]
    return " ".join(words)


def _are_conversations(columns: Sequence[str], rows: Sequence[TableRow]) -> bool:
    cells = [cell for column in columns for row in rows if not is_blank_cell(cell := row.get(column))]
    return bool(cells) and all(is_chat(find_listed_messages(load_cell(cell))) for cell in cells)


def _reader(prompts: Sequence[str], choose: Choice) -> Callable[[TableRow], list[Any] | None]:
    def read(row: TableRow) -> list[Any] | None:
        column = choose(row)
        answer = row.get(column) if column else None
        if answer is None or is_blank_cell(answer):
            return None
        if not prompts or starts_conversation(answer):
            return find_listed_messages(load_cell(answer))
        asked = "\n\n".join(cell for name in prompts if not is_blank_cell(cell := row.get(name)) and cell)
        questions, answers = load_cell(asked), load_cell(answer)
        if _are_texts(questions) and _are_texts(answers) and len(questions) == len(answers):  # LMSYS: the turns of each
            return expand_pairs([list(pair) for pair in zip(questions, answers, strict=True)])
        before = find_listed_messages(questions) or [{"role": "user", "content": asked}]
        masked = [{**one, "weight": 0} if isinstance(one, dict) else one for one in before]
        return [*masked, *(read_cell_messages(answer) or [])] if asked.strip() else None

    return read


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)

"""Text files that hold no examples: word-by-word labels, subtitles, databases, settings, tables printed on a screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from toolkit.errors import DataError

_TAG = re.compile(r"O|[BIESLUM]-[\w.-]+")
_SUBTITLE = re.compile(r"(\d{1,2}:)?\d{2}:\d{2}[,.]\d{3} --> .*")
_SQL = re.compile(r"(CREATE (TABLE|DATABASE|SCHEMA)|INSERT INTO|DROP TABLE)\b", re.IGNORECASE)
_YAML = re.compile(r"(- )?[A-Za-z_][\w-]{0,40}:( .*)?")
_PRINTED = re.compile(r"(\d+)\s{1,}\S.*")
MIN_LINES, MIN_TOKENS = 2, 4
"""Lines with text that a file has at least, and those with a word and its tag."""


def refuse_foreign_text(sample: str) -> None:
    """Raise DataError for a text that begins with the sample and holds no examples, with what it is."""
    if (found := name_foreign_text(sample)) is not None:
        raise DataError(*found)


def name_foreign_text(sample: str) -> tuple[str, str] | None:
    """Return (what the file is, what to do) of a text without examples; None for other texts."""
    lines = [line for line in sample.removeprefix("\ufeff").splitlines() if line.strip()]
    if len(lines) < MIN_LINES:
        return None
    for is_this, message, hint in _KINDS:
        if is_this(lines):
            return message, hint
    return None


def _has_tagged_tokens(lines: Sequence[str]) -> bool:
    if lines[0].startswith("-DOCSTART-"):
        return True
    cells = [line.split() for line in lines[:-1] if not line.startswith("#")]
    widths = {len(row) for row in cells}
    if len(widths) != 1 or len(cells) < MIN_TOKENS:
        return False
    is_tree = widths == {10} and all(row[0].split("-")[0].split(".")[0].isdigit() for row in cells)
    tags = {row[-1] for row in cells}
    is_tagged = all(map(_TAG.fullmatch, tags)) and tags != {"O"} and 1 < len(cells[0]) < 6
    return is_tree or is_tagged


def _are_subtitles(lines: Sequence[str]) -> bool:
    return sum(_SUBTITLE.fullmatch(line.strip()) is not None for line in lines) >= len(lines) / 5


def _is_sql(lines: Sequence[str]) -> bool:
    first = next((line for line in lines if not line.startswith(("--", "/*", "SET ", "USE "))), "")
    return _SQL.match(first) is not None and any(line.rstrip().endswith((";", "(")) for line in lines)


def _is_yaml(lines: Sequence[str]) -> bool:
    begins = lines[0].strip() == "---" or lines[0].startswith("- ")
    return begins and sum(_YAML.fullmatch(line.strip()) is not None for line in lines) > 0.6 * len(lines)


def _is_markdown(lines: Sequence[str]) -> bool:
    headings = [line for line in lines if re.match(r"#{1,6} \S", line)]
    return lines[0] in headings and len(headings) > 1 and any(line.startswith("## ") for line in headings)


def _is_printed_frame(lines: Sequence[str]) -> bool:
    numbers = [match.group(1) for line in lines[1:-1] if (match := _PRINTED.fullmatch(line)) is not None]
    is_counted = numbers[:3] == ["0", "1", "2"] and len(numbers) > 0.9 * len(lines[1:-1])
    return is_counted and lines[0].startswith("  ") and not {",", ";", "\t", "|"} & set(lines[0])


_KINDS: tuple[tuple[Callable[[Sequence[str]], bool], str, str], ...] = (
    (
        _has_tagged_tokens,
        "This file has one word per line with its tag, as CoNLL files do: it labels words.",
        "Write a row for each sentence, with the sentence in one column and what the model is to answer in another.",
    ),
    (
        _are_subtitles,
        "This file has subtitles, which have no answers.",
        "Write a CSV file with a row for each example.",
    ),
    (_is_sql, "This is a dump of a database in SQL, not rows.", "Export the table as CSV from the database."),
    (_is_yaml, "This is YAML, which is not read.", "Convert it to JSON: a list of objects, one for each example."),
    (
        _is_markdown,
        "This is a text in Markdown, not rows.",
        "Write a CSV or JSON file with a row for each example: what the model is given, and what it is to answer.",
    ),
    (
        _is_printed_frame,
        "This is a table as pandas prints it: where its cells end is lost.",
        "Save the table with df.to_csv('data.csv', index=False), and use that file.",
    ),
)
"""Whether the lines are of this kind, what it is, and what to do."""

"""Text files that hold examples in another way than rows of cells: exported chats, questions with answers, labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from toolkit.data.examples import column_names as names
from toolkit.data.shapes.foreign_texts import name_foreign_text

TextRow = tuple[int, list[str]]
"""Number of the line on which a row begins, and its cells."""
MIN_FOUND = 3
"""Messages, questions or labels that a file has at least."""
MIN_MESSAGE_SHARE = 0.3
"""Lines of a chat that begin a message, at least; the others continue one."""
_CLOCK = r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:[ \u00a0\u202f]?[AaPp]\.?\s?[Mm]\.?)?"
_DATE = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}"
_CHAT_LINES = (
    re.compile(rf"[\u200e\u200f]?({_DATE}),? {_CLOCK} [-\u2013] (?:([^:\n]{{1,60}}): )?(.*)"),
    re.compile(rf"[\u200e\u200f]?\[({_DATE}),? {_CLOCK}\] (?:([^:\n]{{1,60}}): )?(.*)"),
    re.compile(rf"()\[?{_CLOCK}\]?\s+<[ @+~&%]?([^>\n]{{1,60}})> (.*)"),
)
"""WhatsApp on Android and on iPhones, and IRC: the groups are date, person and text."""
_OMITTED = re.compile(r"[\u200e\u200f]?<?[^<>.!?]{2,40} (omitted|weggelassen|ausgeschlossen|omis|omitido|omesso)>?\.?")
_MARKED = re.compile(r"(?:\*\*|#{1,4} )?([^\W\d_]{1,15})\.? ?\d{0,4}(?:\*\*)?[:.)](?:\*\*)?(?:\s+(.*)|\s*)")
_FASTTEXT = re.compile(r"((?:__label__\S+[ \t,]+)+)(.*)")
_ANKI_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "\t": "\t", ",": ",", ";": ";", "|": "|"}
_R_HEADER = re.compile(r'"[^"\n]*"(?: "[^"\n]*")+')


@dataclass(frozen=True)
class TextLayout:
    """columns: names of the columns; read: yields the rows of the lines; notice: what the file is, in a sentence."""

    columns: tuple[str, ...]
    read: Callable[[Iterable[str]], Iterator[TextRow]]
    notice: str


def find_text_layout(sample: str) -> TextLayout | None:
    """Return how to read a text that begins with the sample, None if it is none of these files."""
    lines = [line for line in sample.removeprefix("\ufeff").splitlines() if line.strip()]
    if len(lines) < MIN_FOUND:
        return None
    return (
        _find_chat(lines) or _find_questions(lines) or _find_labels(lines) or _find_r_table(lines) or _find_cards(lines)
    )


def is_known_text(sample: str) -> bool:
    """Return whether a text is one of these files, or one that holds no examples."""
    return name_foreign_text(sample) is not None or find_text_layout(sample) is not None


def _find_chat(lines: Sequence[str]) -> TextLayout | None:
    for pattern in _CHAT_LINES:
        if pattern.match(lines[0]) is None:
            continue
        found = [match for line in lines if (match := pattern.match(line)) and match.group(2)]
        if len(found) >= max(MIN_FOUND, MIN_MESSAGE_SHARE * len(lines)):
            notice = (
                "The file is an exported chat: a row is a message. Notes of the program and attachments were ignored."
            )
            return TextLayout(("date", "from", "message"), partial(_read_chat, pattern=pattern), notice)
    return None


def _read_chat(lines: Iterable[str], pattern: re.Pattern[str]) -> Iterator[TextRow]:
    begun: TextRow | None = None
    for at, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n").removeprefix("\ufeff")
        match = pattern.match(text)
        if match is None:
            if begun is not None and text.strip():
                begun[1][2] += "\n" + text
            continue
        if begun is not None:
            yield begun
        said = match.group(3).strip("\u200e\u200f ")
        is_note = match.group(2) is None or not said or _OMITTED.fullmatch(said) is not None
        begun = None if is_note else (at, [match.group(1), match.group(2).strip("\u200e\u200f ~"), said])
    if begun is not None:
        yield begun


def _find_questions(lines: Sequence[str]) -> TextLayout | None:
    marks = [mark for line in lines if (mark := _read_mark(line)) is not None]
    kinds = [is_question for is_question, _ in marks]
    first = _read_mark(lines[0])
    alternate = all(kind == (at % 2 == 0) for at, kind in enumerate(kinds))
    if first is None or len(kinds) < 2 * MIN_FOUND or not alternate:
        return None
    notice = "The file has questions and answers behind marks such as 'Q:' and 'A:'; each question is a row."
    return TextLayout(("question", "answer"), _read_questions, notice)


def _read_mark(line: str) -> tuple[bool, str] | None:
    """Return (whether it is a question, its text) of a line that begins with a mark such as "Q:"; None for others."""
    match = _MARKED.fullmatch(line.strip())
    word = match.group(1).casefold() if match else ""
    if match is None or not (word in names.REQUESTS or word in names.ANSWERS or word in ("f", "p", "r")):
        return None
    return word in names.REQUESTS or word in ("f", "p"), match.group(2) or ""


def _read_questions(lines: Iterable[str]) -> Iterator[TextRow]:
    row: TextRow | None = None
    part = 0
    for at, line in enumerate(lines, start=1):
        mark = _read_mark(line.removeprefix("\ufeff"))
        if mark is None:
            if row is not None:
                row[1][part] += "\n" + line.rstrip()
        elif mark[0]:
            if row is not None:
                yield row[0], [cell.strip() for cell in row[1]]
            row, part = (at, [mark[1], ""]), 0
        elif row is not None:
            row[1][1] = mark[1]
            part = 1
    if row is not None:
        yield row[0], [cell.strip() for cell in row[1]]


def _find_labels(lines: Sequence[str]) -> TextLayout | None:
    if not all(map(_FASTTEXT.fullmatch, lines[:-1])):
        return None
    notice = "The file has fastText's labels: the words behind '__label__' are in the column 'label'."
    return TextLayout(("text", "label"), _read_labels, notice)


def _read_labels(lines: Iterable[str]) -> Iterator[TextRow]:
    for at, line in enumerate(lines, start=1):
        match = _FASTTEXT.fullmatch(line.strip())
        if match is not None:
            labels = [label.strip(",") for label in match.group(1).replace("__label__", "").split()]
            yield at, [match.group(2).strip(), ", ".join(labels)]


def _find_cards(lines: Sequence[str]) -> TextLayout | None:
    """Return the layout of Anki's notes: lines such as #separator:tab in front, and no column names."""
    settings = dict(line[1:].casefold().split(":", 1) for line in lines if re.match(r"#\w[\w ]*:", line))
    delimiter = _ANKI_DELIMITERS.get(settings.get("separator", "").strip())
    cards = [line for line in lines if not line.startswith("#")]
    if delimiter is None or not cards:
        return None
    width = max(len(row) for row in csv.reader(cards[:100], delimiter=delimiter))
    named = next((line.split(":", 1)[1].split(delimiter) for line in lines if line.startswith("#columns:")), [])
    names_ = [*(named or ("front", "back")), *(f"column {at}" for at in range(3, width + 1))][:width]

    def read(given: Iterable[str]) -> Iterator[TextRow]:
        reader = csv.reader((line for line in given if not line.startswith("#")), delimiter=delimiter)
        for row in reader:
            if row:
                yield reader.line_num, [*row, *[""] * width][:width]

    return TextLayout(tuple(names_), read, "The file has Anki's notes, whose columns have no names but front and back.")


def _find_r_table(lines: Sequence[str]) -> TextLayout | None:
    """Return the layout of R's write.table: quoted cells between spaces, with the number of each row in front."""
    if _R_HEADER.fullmatch(lines[0]) is None:
        return None
    header = next(csv.reader([lines[0]], delimiter=" "))
    rows = [*csv.reader(lines[1:-1], delimiter=" ")]
    widths = {len(row) for row in rows}
    if not rows or widths - {len(header)} - {len(header) + 1} or len(widths) > 1 or len(set(header)) < len(header):
        return None

    def read(given: Iterable[str]) -> Iterator[TextRow]:
        reader = csv.reader(given, delimiter=" ")
        next(reader)
        for row in reader:
            if row:
                yield reader.line_num, [*row[-len(header) :], *[""] * (len(header) - len(row))]

    return TextLayout(tuple(header), read, "Columns are separated by spaces, as R's write.table does it.")

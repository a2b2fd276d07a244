"""Checks of the text in cells: mojibake, unusual characters, lost characters, very long cells.

Only columns that the templates use are checked. Arrow's regular expressions scan whole columns, and only cells with
characters outside ASCII reach ftfy, which is slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
from ftfy import TextFixerConfig, fix_encoding
from ftfy.badness import is_bad

from toolkit.data.conversations import looks_like_chat
from toolkit.data.doctor.examined_rows import ExaminedRows
from toolkit.data.doctor.row_keys import Mask
from toolkit.data.examples.renderers import ChatRenderer
from toolkit.data.findings import Finding, Fix
from toolkit.data.table import RowNumbers, rows_in_words

MAX_USUAL_CELL_CHARACTERS = 20_000
"""A cell with more characters is very long, whatever the lengths of the others."""
LONG_CELL_RATIO, MIN_LONG_CELL_CHARACTERS = 20, 2_000
"""A cell is very long if it has more than this many times the characters of the median, and more than this many."""

# Control characters except tab and line breaks, soft hyphen and zero-width marks, direction overrides, private use,
# noncharacters. The joiners U+200C and U+200D are part of emoji and of several scripts, and are not unusual.
UNUSUAL_CHARACTERS = (
    "\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ue000-\uf8ff\ufeff\ufff0-\ufffb\ufffe\uffff"
)
_UNUSUAL = re.compile(f"[{UNUSUAL_CHARACTERS}]")
_UNUSUAL_RE2 = "[" + "".join(c if c == "-" else f"\\x{{{ord(c):X}}}" for c in UNUSUAL_CHARACTERS) + "]"
_ESCAPED_RE2 = r"(^|[^\\])(\\\\)*\\(u00(0[1-8bcef]|1[0-9a-f])|[bf])"
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)(\\(?:u00(?:0[1-8bcef]|1[0-9a-f])|[bf]))")
"""Control characters in JSON text, behind an even number of backslashes."""
_REPLACEMENT_CHARACTER = "\ufffd"
_FIXER_CONFIG = TextFixerConfig(unescape_html=False)
_SHOWN = 3


def repair_mojibake(cell: str) -> str:
    """Return the text before it was decoded in the wrong encoding, or the same text if it has no mojibake."""
    return fix_encoding(cell, _FIXER_CONFIG) if not cell.isascii() and is_bad(cell) else cell


def remove_unusual_characters(cell: str) -> str:
    """Return the text without unusual characters; in a conversation also those that JSON writes as escapes."""
    cleaned = _UNUSUAL.sub("", cell)
    return _ESCAPED.sub(r"\1", cleaned) if looks_like_chat(cleaned) else cleaned


def _mojibake(examined: ExaminedRows) -> Iterator[Finding]:
    found, samples = _scan_columns(examined, _has_mojibake)
    rows = _union_of_rows(found)
    if not rows.size:
        return
    sample = next(cell for cell in samples if cell)
    before, after = _around_change(sample, repair_mojibake(sample))
    yield Finding(
        "mojibake",
        "Garbled characters (mojibake)",
        f"{rows_in_words(rows.size)} with text decoded in the wrong encoding, such as '{before}' for '{after}'.",
        "The model learns to write the garbled characters, and is trained on words that it does not know.",
        "serious",
        rows,
        (
            Fix(
                f"Repair {rows_in_words(rows.size)}",
                "repair",
                f"garbled characters in {rows_in_words(rows.size)} repaired",
                rows,
                tuple(found),
            ),
        ),
    )


def _has_mojibake(cells: Any) -> Mask:
    beyond = pc.fill_null(pc.match_substring_regex(cells, r"[^\x00-\x7f]"), False).to_numpy(zero_copy_only=False)
    bad = np.zeros(len(cells), dtype=bool)
    at = np.flatnonzero(beyond)
    texts = cells.filter(beyond).to_pylist()
    bad[at] = [is_bad(text) and repair_mojibake(text) != text for text in texts]
    return bad


def _unusual_characters(examined: ExaminedRows) -> Iterator[Finding]:
    # mojibake contains control characters too, and its repair removes them
    is_chat = isinstance(examined.renderer, ChatRenderer)
    pattern = f"{_UNUSUAL_RE2}|{_ESCAPED_RE2}" if is_chat else _UNUSUAL_RE2
    found, samples = _scan_columns(examined, lambda cells: _matches(cells, pattern) & ~_has_mojibake(cells))
    rows = _union_of_rows(found)
    if not rows.size:
        return
    names = sorted({f"U+{ord(match.group()):04X}" for cell in samples for match in _UNUSUAL.finditer(cell)})
    if is_chat:
        escapes = {match.group(2) for cell in samples for match in _ESCAPED.finditer(cell)}
        names += sorted(f"U+{ord(json.loads(_quote(escape))):04X}" for escape in escapes)
    listed = ", ".join(names[:_SHOWN]) + ("…" if len(names) > _SHOWN else "")
    words = rows_in_words(rows.size)
    fix = Fix(f"Clean {words}", "clean", f"unusual characters removed from {words}", rows, tuple(found))
    yield Finding(
        "unusual",
        "Unusual characters",
        f"{rows_in_words(rows.size)} with control or invisible characters ({listed}).",
        "They are invisible, but the model is trained to read and write them.",
        "warning",
        rows,
        (fix,),
    )


def _quote(escape: str) -> str:
    return '"' + escape + '"'


def _lost_letters(examined: ExaminedRows) -> Iterator[Finding]:
    rows = _union_of_rows(_scan_columns(examined, lambda cells: _matches(cells, _REPLACEMENT_CHARACTER))[0])
    if not rows.size:
        return
    fix = Fix(
        f"Remove {rows_in_words(rows.size)}", "drop", f"{rows_in_words(rows.size)} with lost characters removed", rows
    )
    yield Finding(
        "lost_letters",
        "Lost characters",
        f"{rows_in_words(rows.size)} with the replacement character � in place of a lost character.",
        "The lost character can't be restored, and the model learns to write the replacement character.",
        "warning",
        rows,
        (fix,),
    )


def _matches(cells: Any, pattern: str) -> Mask:
    return pc.fill_null(pc.match_substring_regex(cells, pattern), False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _long_cells(examined: ExaminedRows) -> Iterator[Finding]:
    found: dict[str, RowNumbers] = {}
    longest = 0
    for column, lengths in examined.measure_cells(examined.renderer.columns_needed, pc.utf8_length).items():
        present = lengths[examined.usable]
        if not present.size:
            continue
        limit = min(
            MAX_USUAL_CELL_CHARACTERS, max(MIN_LONG_CELL_CHARACTERS, LONG_CELL_RATIO * float(np.median(present)))
        )
        long = (lengths > limit) & examined.usable
        if long.any():
            found[column] = np.flatnonzero(long)
            longest = max(longest, int(lengths.max()))
    rows = _union_of_rows(found)
    if not rows.size:
        return
    fix = Fix(
        f"Remove {rows_in_words(rows.size)}", "drop", f"{rows_in_words(rows.size)} with very long cells removed", rows
    )
    yield Finding(
        "long",
        "Very long cells",
        f"{rows_in_words(rows.size)} with a cell much longer than the others, up to {longest:,} "
        f"characters ({', '.join(repr(column) for column in found)}).",
        "Text beyond the max sequence length is truncated, and one long row can use as much memory as many short ones.",
        "warning",
        rows,
        (fix,),
    )


def _scan_columns(examined: ExaminedRows, is_wrong: Callable[[Any], Mask]) -> tuple[dict[str, RowNumbers], list[str]]:
    """Return (rows of each column with cells that `is_wrong` marks, some of these cells)."""
    names = list(examined.renderer.columns_needed)
    masks: dict[str, list[Mask]] = {name: [] for name in names}
    samples: list[str] = []
    for batch in examined.table.batches(names) if names else ():
        for name, cells in zip(names, batch.columns, strict=True):
            mask = is_wrong(cells)
            masks[name].append(mask)
            if len(samples) < 20 and mask.any():
                samples += cells.filter(mask).slice(0, 20).to_pylist()
    rows = {name: np.flatnonzero(np.concatenate(parts) & examined.usable) for name, parts in masks.items() if parts}
    return {name: found for name, found in rows.items() if found.size}, samples


def _union_of_rows(found: dict[str, RowNumbers]) -> RowNumbers:
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found.values()]))


def _around_change(before: str, after: str) -> tuple[str, str]:
    """Return the first word that differs, in both texts."""
    pairs = zip(before.split(), after.split(), strict=False)
    first = next(((a, b) for a, b in pairs if a != b), (before, after))
    return first[0][:40], first[1][:40]


TEXT_CHECKS = (
    ("looking for garbled text (mojibake)", _mojibake),
    ("looking for invisible and control characters", _unusual_characters),
    ("looking for replacement characters (�)", _lost_letters),
    ("looking for very long cells", _long_cells),
)

"""Which encodings could a file be in, when it is not UTF-8: each that fits, with lines as it reads them.

Only ever an offer to choose from: nothing here decides. Looks at a bounded part of the file.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from toolkit.data.read_options import Offer, ReadOptions, shorten_preview

LATIN_ENCODINGS = {
    "cp1252": "Western Europe, Windows",
    "cp1250": "Central Europe, Windows",
    "cp1254": "Turkish, Windows",
    "mac-roman": "Western Europe, old Macs",
    "iso-8859-1": "Latin-1, Western Europe",
}
NON_LATIN_ENCODINGS = {
    "cp1251": "Cyrillic, Windows",
    "koi8-r": "Cyrillic, KOI8-R",
    "cp1253": "Greek, Windows",
    "cp1255": "Hebrew, Windows",
    "cp1256": "Arabic, Windows",
}
MULTIBYTE_ENCODINGS = {
    "cp932": "Japanese, Shift-JIS",
    "euc-jp": "Japanese, EUC",
    "gb18030": "Chinese, simplified",
    "big5": "Chinese, traditional",
    "cp949": "Korean",
}
MAX_ENCODING_OFFERS = 10
CONTEXT_BYTES_BEFORE, CONTEXT_BYTES_AFTER = 4_096, 65_536
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_UNLIKELY_CHARACTERS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")


def encoding_offers(path: Path, bad: int, options: ReadOptions) -> list[Offer]:
    """The encodings that read the part of the file around byte `bad`, the likely ones first, and last UTF-8 with what
    is no character replaced."""
    with path.open("rb") as file:
        start = max(0, bad - CONTEXT_BYTES_BEFORE)
        file.seek(start)
        part = file.read(CONTEXT_BYTES_BEFORE + CONTEXT_BYTES_AFTER)
    part = part[part.rfind(b"\n", 0, bad - start) + 1 :]  # from the line of the bad byte on
    texts: dict[str, str] = {}
    for codec in _rank_encodings(part):
        text = _try_decode(part, codec)
        if text is not None and text not in texts.values():  # the first of those that read the same
            texts[codec] = text
    words = {**LATIN_ENCODINGS, **NON_LATIN_ENCODINGS, **MULTIBYTE_ENCODINGS}
    offers = [
        Offer(f"{codec} ({words[codec]})", replace(options, encoding=codec), shorten_preview(_non_ascii_lines(text)))
        for codec, text in texts.items()
    ]
    lines = shorten_preview(_non_ascii_lines(part.decode("utf-8", "replace")))
    repair = replace(options, encoding="utf-8", repair_text=True)
    return [*offers[:MAX_ENCODING_OFFERS], Offer("UTF-8, what is no character replaced by \ufffd", repair, lines)]


def _rank_encodings(part: bytes) -> dict[str, str]:
    """Single accents between ASCII letters speak for an alphabet of western Europe, long runs for another script."""
    runs = [len(run) for run in _HIGH_BYTES.findall(part)]
    if runs and sum(run for run in runs if run > 1) > 0.6 * sum(runs):
        return {**MULTIBYTE_ENCODINGS, **NON_LATIN_ENCODINGS, **LATIN_ENCODINGS}
    return {**LATIN_ENCODINGS, **MULTIBYTE_ENCODINGS, **NON_LATIN_ENCODINGS}


def _try_decode(part: bytes, codec: str) -> str | None:
    decoder = codecs.getincrementaldecoder(codec)("strict")
    try:
        text = decoder.decode(part)
    except UnicodeDecodeError:
        return None
    return None if _UNLIKELY_CHARACTERS.search(text) else text


def _non_ascii_lines(text: str) -> Iterator[str]:
    """The lines in which the encoding makes a difference."""
    return (line for line in text.splitlines() if not line.isascii())

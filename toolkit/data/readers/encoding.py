"""Detect the encoding of a text file: magic numbers, byte order marks, strict decoding.

Nothing is guessed silently: a file that is neither UTF-8 nor marked as UTF-16 or UTF-32 is refused, with offers of the
encodings that would read it. Nothing is decompressed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.data.read_options import Offer, ReadOptions, UnreadableError, shorten_preview
from toolkit.errors import DataError

ENCODING_HEAD_BYTES = 65_536
"""Bytes at the start of the file that tell another kind of file, and UTF-16 without a byte order mark."""
DECODE_CHUNK_BYTES = 1 << 20
_EXPORT = "Open it in the program that created it and export it as CSV (UTF-8) or JSON."
_CHOOSE = "Choose a CSV, JSON, Parquet or Excel file."
_UNPACK = "Unpack it and upload the file inside."
_MAGIC = (
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", _EXPORT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"PAR1", "a Parquet file", "Rename it so that its name ends with .parquet."),
    (b"ARROW1", "an Arrow file", "Save it as CSV or JSON."),
    (b"SQLite format 3\x00", "an SQLite database", "Export the table as CSV."),
    (b"%PDF-", "a PDF", "Copy its text into a CSV or JSON file."),
    (b"{\\rtf", "an RTF document", "Save it as plain text, CSV or JSON."),
    (b"\x89PNG", "an image", _CHOOSE),
    (b"\xff\xd8\xff", "an image", _CHOOSE),
    (b"\x80\x04\x95", "a Python pickle", "Save it as CSV or JSON; pickle files are never opened."),
)
_OFFICE = (
    (b"word/", "a Word document", "Copy its table into an Excel or CSV file."),
    (b"ppt/", "a PowerPoint file", "Copy its table into an Excel or CSV file."),
    (b"xl/", "an Excel file", "In Excel, choose Save As > CSV UTF-8, and use that file."),
    (b"[Content_Types].xml", "an Excel file", "In Excel, choose Save As > CSV UTF-8, and use that file."),
)
"""What a zip archive holds, by the names at its start."""
_BOMS = (  # the longer ones first: the mark of UTF-32 starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig", "The file starts with a UTF-8 byte order mark, which was ignored."),
    (codecs.BOM_UTF32_LE, "utf-32", "Read as UTF-32."),
    (codecs.BOM_UTF32_BE, "utf-32", "Read as UTF-32."),
    (codecs.BOM_UTF16_LE, "utf-16", "Read as UTF-16."),
    (codecs.BOM_UTF16_BE, "utf-16", "Read as UTF-16."),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MARKUP = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--|table|style|meta|title|script|div)\b", re.IGNORECASE)
_MARKUP_TABLE = re.compile(rb"<t[rdh][\s>]", re.IGNORECASE)


@dataclass(frozen=True)
class DetectedEncoding:
    """codec: a Python codec that decodes the whole file; notices: what the user should know about it.

    errors: the decoder's error handling, "strict", or "replace" if the user has chosen to replace invalid bytes.
    """

    codec: str
    notices: tuple[str, ...] = ()
    errors: str = "strict"


def detect_encoding(path: Path, options: ReadOptions) -> DetectedEncoding:
    """Return the encoding of the file, after decoding all of it once.

    Raises DataError when it is not text, UnreadableError with offers when the user must choose its encoding.
    """
    with path.open("rb") as file:
        head = file.read(ENCODING_HEAD_BYTES)
    if not head:
        raise DataError("The file is empty (0 bytes).", "Choose another file.")
    refuse_other_formats(head)
    found = _detect_codec(head, options)
    try:
        if options.repair_text:
            return _replace_invalid_bytes(path, found)
        _decode_all(path, found.codec, options)
    except UnicodeError as error:  # about the whole file; _decode_all explains an invalid byte itself
        hint = "Choose another encoding. For UTF-16 without a byte order mark, use utf-16-le or utf-16-be."
        raise DataError(f"The file can't be read as {found.codec}: {error}.", hint) from error
    return found


def refuse_other_formats(head: bytes) -> None:
    """Raise DataError when the first bytes are those of a file that is not text."""
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            if magic == b"PK\x03\x04":
                what, hint = next(((kind, advice) for mark, kind, advice in _OFFICE if mark in head), (what, hint))
            raise DataError(f"This is {what}, not a CSV or JSON file.", hint)
    if _MARKUP.match(head.removeprefix(codecs.BOM_UTF8)):
        if _MARKUP_TABLE.search(head):
            message = "This is a web page (HTML) with a table, not data."
            raise DataError(message, "Open it in Excel or LibreOffice, and save it as .xlsx or as CSV UTF-8.")
        raise DataError(
            "This is a web page or XML, not data: it starts with a tag.",
            "If you downloaded it, the server may have sent an error page: download the file again.",
        )


def _detect_codec(head: bytes, options: ReadOptions) -> DetectedEncoding:
    if options.encoding is not None:
        return DetectedEncoding(options.encoding, (f"Read as {options.encoding}, as chosen.",))
    for mark, codec, notice in _BOMS:
        if head.startswith(mark):
            return DetectedEncoding(codec, (notice,))
    # UTF-16 text in a Latin script has a zero byte in nearly every pair, always on the same side
    pairs = len(head) // 2
    low, high = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if pairs and max(low, high) > 0.4 * pairs and min(low, high) < 0.05 * pairs:
        codec = "utf-16-le" if high > low else "utf-16-be"
        return DetectedEncoding(codec, ("Read as UTF-16, although the file has no byte order mark.",))
    if len(_CONTROL.findall(head)) > 0.02 * len(head):
        raise DataError("This is a binary file: it contains bytes that do not occur in text.", _CHOOSE)
    return DetectedEncoding("utf-8")


def _decoder(codec: str, errors: str) -> codecs.IncrementalDecoder:
    try:
        found = codecs.lookup(codec)
        if not found._is_text_encoding:  # base64 and the like are codecs, but not encodings
            raise LookupError(codec)
        return codecs.getincrementaldecoder(codec)(errors)
    except LookupError as error:
        raise DataError(
            f"'{codec}' is not a known encoding.", "Choose another one, such as utf-8 or cp1252."
        ) from error


def _replace_invalid_bytes(path: Path, found: DetectedEncoding) -> DetectedEncoding:
    """Return `found` with the error handling "replace" and a notice that counts the places with invalid bytes."""
    count = 0

    def count_and_replace(error: UnicodeError) -> tuple[str, int]:
        nonlocal count
        count += 1
        return "\ufffd", error.end if isinstance(error, UnicodeDecodeError) else 0

    codecs.register_error("toolkit-counting", count_and_replace)
    decoder = _decoder(found.codec, "toolkit-counting")
    with path.open("rb") as file:
        while chunk := file.read(DECODE_CHUNK_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    places = "1 place" if count == 1 else f"{count:,} places"
    notice = (f"In {places}, invalid bytes were replaced with U+FFFD.",) if count else ()
    return DetectedEncoding(found.codec, (*found.notices, *notice), "replace")


def _decode_all(path: Path, codec: str, options: ReadOptions) -> None:
    decoder = _decoder(codec, "strict")
    before = line = 0  # bytes and line breaks in the chunks decoded so far
    with path.open("rb") as file:
        while True:
            chunk = file.read(DECODE_CHUNK_BYTES)
            undecoded = len(decoder.getstate()[0])  # bytes of a character at the end of the last chunk
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                at = before - undecoded + error.start
                newlines = line + chunk.count(b"\n", 0, max(0, error.start - undecoded))
                raise _invalid_byte_error(path, codec, at, newlines + 1, options) from error
            if not chunk:
                return
            before += len(chunk)
            line += chunk.count(b"\n")


def _invalid_byte_error(path: Path, codec: str, at: int, line: int, options: ReadOptions) -> DataError:
    with path.open("rb") as file:
        file.seek(at)
        found = file.read(4)
    name = codec.removesuffix("-sig").upper()
    where = f"byte {at:,} (line {line:,})"
    if codec.startswith(("utf-16", "utf-32")):
        if len(found) < 4:
            message = f"The file ends in the middle of a character, at {where}."
            offer = Offer("Replace the incomplete character", replace(options, repair_text=True))
            return UnreadableError(message, "The file is incomplete: copy or download it again.", [offer])
        return DataError(f"The file is not valid {name}: there is no valid character at {where}.", "Save it as UTF-8.")
    message = f"The file is not valid {name}: 0x{found[0]:02X} at {where} is not part of any character."
    offers = encoding_offers(path, at, replace(options, encoding=None))
    offers = [offer for offer in offers if offer.options.encoding != options.encoding or offer.options.repair_text]
    preview = f" Read as {offers[0].label}, the line is: {offers[0].preview[0]}" if offers[0].preview else ""
    hint = f"Choose an encoding, or save the file as UTF-8 in the program that created it.{preview}"
    return UnreadableError(message, hint, offers)


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
"""Bytes before and after an invalid byte on which an encoding is tried."""
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_UNLIKELY_CHARACTERS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")


def encoding_offers(path: Path, bad: int, options: ReadOptions) -> list[Offer]:
    """Return offers of the encodings that can read the file around byte `bad`, the likely ones first.

    The last offer is UTF-8 with invalid characters replaced.
    """
    with path.open("rb") as file:
        start = max(0, bad - CONTEXT_BYTES_BEFORE)
        file.seek(start)
        part = file.read(CONTEXT_BYTES_BEFORE + CONTEXT_BYTES_AFTER)
    part = part[part.rfind(b"\n", 0, bad - start) + 1 :]  # start with the line of the invalid byte
    texts: dict[str, str] = {}
    for codec in _rank_encodings(part):
        text = _try_decode(part, codec)
        if text is not None and text not in texts.values():  # of those with the same result, keep the first
            texts[codec] = text
    words = {**LATIN_ENCODINGS, **NON_LATIN_ENCODINGS, **MULTIBYTE_ENCODINGS}
    offers = [
        Offer(f"{codec} ({words[codec]})", replace(options, encoding=codec), shorten_preview(_non_ascii_lines(text)))
        for codec, text in texts.items()
    ]
    lines = shorten_preview(_non_ascii_lines(part.decode("utf-8", "replace")))
    repair = replace(options, encoding="utf-8", repair_text=True)
    return [*offers[:MAX_ENCODING_OFFERS], Offer("UTF-8, with invalid characters replaced with \ufffd", repair, lines)]


def _rank_encodings(part: bytes) -> dict[str, str]:
    """Return the encodings with their names, the likely ones first.

    One or two high bytes between ASCII letters suggest a Western European language, long runs another script.
    """
    runs = [len(run) for run in _HIGH_BYTES.findall(part)]
    if runs and sum(run for run in runs if run > 2) > 0.6 * sum(runs):
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
    """Yield the lines in which the encoding makes a difference."""
    return (line for line in text.splitlines() if not line.isascii())

"""Names of stored files: the hash of the content, then the user's name in harmless characters."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.data.readers.formats import FILE_ENDINGS
from toolkit.system.printable import make_file_stem

HASH_DIGITS = 12  # hex digits of the sha256 in a file's name
_UNKNOWN_ENDING = re.compile(r"--([a-z0-9_-]{1,10})\.data$")


def make_stored_name(sha256: str, name: str) -> str:
    """Return the name of a stored file. An unknown ending is kept in front of a harmless one: "x--xyz.data"."""
    own = name.replace("\\", "/").rsplit("/", 1)[-1]
    label, extension = make_file_label(name), own.rsplit(".", 1)[-1].lower()
    if extension not in FILE_ENDINGS or name.lower().endswith(".tar.gz"):
        ending = make_file_stem(extension, 10) if "." in own[1:] else ""
        label = f"{label[: 38 - len(ending)].rstrip('-')}--{ending}" if ending else label
        extension = "data"
    return f"{sha256[:HASH_DIGITS]}-{label}.{extension}"


def original_file_name(path: Path) -> str:
    """Return a file's displayed name: without the hash at the start of an upload's name, with its own ending."""
    name = re.sub(rf"^[0-9a-f]{{{HASH_DIGITS}}}-", "", path.name)
    return name if name == path.name else _UNKNOWN_ENDING.sub(r".\1", name)


def make_file_label(name: str) -> str:
    """Return the stem of a file's name as [a-z0-9_-], at most 40 characters; "data" if none remain."""
    stem = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem = stem.rsplit(".", 1)[0] if "." in stem[1:] else stem
    return make_file_stem(stem) or "data"

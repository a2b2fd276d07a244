"""Whether a file that a user named can be copied into the output folder at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from toolkit.errors import DataError
from toolkit.system.printable import format_bytes

SPARSE_FROM_BYTES, SPARSE_RATIO = 1 << 30, 100
"""Files from this size on are refused if they have so many times fewer bytes on the disk: they are nearly all holes."""


def check_room(path: Path, found: os.stat_result, folder: Path | None) -> None:
    """Raise DataError if a file is too large for the disk of `folder`, or nearly empty in spite of its size.

    folder: that the file is copied to; None for one that is only read.
    """
    size, stored = format_bytes(found.st_size), found.st_blocks * 512
    if found.st_size >= SPARSE_FROM_BYTES and stored * SPARSE_RATIO < found.st_size:
        raise DataError(
            f"{path} has a length of {size}, but only {format_bytes(stored)} are on the disk: it is nearly all zeros.",
            "Create the file again: it was not written to its end, or is an image of a disk.",
        )
    free = shutil.disk_usage(folder).free if folder is not None else found.st_size
    if found.st_size > free:
        raise DataError(
            f"{path} has {size}, and its copy in {folder} would fill the disk ({format_bytes(free)} free).",
            "Free some disk space, or choose another output folder.",
        )

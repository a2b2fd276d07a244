"""Files that only their owner may read: the umask of every process, and the modes of a save_dir that is opened."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

OTHERS_RIGHTS = 0o077
"""The permission bits of every user but the owner."""

logger = logging.getLogger(__name__)
_opened: set[Path] = set()


def restrict_new_files() -> None:
    """Make what this process and its children create readable by its owner only; each entry point calls it first."""
    os.umask(OTHERS_RIGHTS)


def tighten_save_dir(folder: Path) -> None:
    """Take the rights of other users away from an existing save_dir and everything in it, once in each process.

    A folder that is private already is not walked. Links are not followed, files of other users stay as they are, and
    so does a folder that is clearly meant for more than runs: a shared one such as /tmp, or one that holds the home.
    """
    path = folder.absolute()
    if path in _opened or not path.is_dir():
        return
    _opened.add(path)
    found = path.stat()
    if found.st_mode & stat.S_ISVTX or Path.home().is_relative_to(path.resolve()):
        logger.warning("%s is shared with other things: other users may read the runs in it", path)
        return
    if found.st_uid == os.geteuid() and not found.st_mode & OTHERS_RIGHTS:
        return
    try:
        _tighten(path, found)  # first: from here on nobody else reaches what is below
        for root, folders, files, handle in os.fwalk(path, onerror=_log_unreadable):
            for name in (*folders, *files):
                _tighten(Path(root, name), os.stat(name, dir_fd=handle, follow_symlinks=False))
    except OSError as error:
        logger.warning("the permissions of %s can't be restricted: %s", path, error)


def find_privacy_problem(path: Path) -> str:
    """Return why others may have written or may read this file, in a clause that begins with a verb; "" if they can't.

    Raises OSError if the file can't be examined.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid != os.geteuid():
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & OTHERS_RIGHTS:
        return f"is accessible to other users (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _tighten(path: Path, found: os.stat_result) -> None:
    own = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
    if own and found.st_mode & OTHERS_RIGHTS:
        path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_RIGHTS)


def _log_unreadable(error: OSError) -> None:
    logger.warning("the permissions below %s can't be restricted: %s", error.filename, error)

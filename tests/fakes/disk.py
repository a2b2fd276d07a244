"""A disk that fails: what survives a power cut at any moment, and faults at any file operation.

`Disk` watches the file operations below a folder and keeps a model of what a disk without its caches would hold: the
content of a file as of its last fsync, the names in a folder as of the folder's last fsync. A crash may keep any part
of what was not synced; the two ends are looked at: nothing of it (`lost`), and all names of it but no content (`torn`).
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

OPERATIONS = ("open", "fsync", "rename", "mkdir", "unlink", "rmdir", "write")
Names = dict[str, tuple[int, bool]]


class Disk:
    """root: the watched folder; its present content is safe. deaf_to: number of an fsync that is ignored."""

    def __init__(self, root: Path, deaf_to: int = 0) -> None:
        self.root = root
        self.fsyncs = 0
        self._deaf_to = deaf_to
        self._names: dict[int, Names] = {}
        self._content: dict[int, bytes] = {}
        self._retired = 0
        for folder, _, files in os.walk(root):
            self._names[Path(folder).stat().st_ino] = listing(Path(folder))
            self._content |= {(Path(folder) / name).stat().st_ino: (Path(folder) / name).read_bytes() for name in files}

    def after_fsync(self, handle: int) -> None:
        self.fsyncs += 1
        if self.fsyncs == self._deaf_to:
            return
        path, number = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_ino
        if path.is_dir():
            self._names[number] = listing(path)
        else:
            self._content[number] = path.read_bytes()

    def before_unlink(self, number: int) -> None:
        """The system may give the number to a new file: the old one keeps its content under another."""
        self._retired -= 1
        if number in self._content:
            self._content[self._retired] = self._content.pop(number)
        for names in self._names.values():
            for name, (inner, is_folder) in names.items():
                if inner == number:
                    names[name] = (self._retired, is_folder)

    def lost(self, target: Path) -> Path:
        """Into `target`: what is there after a power cut that takes everything that was not synced."""
        self._restore(self.root.stat().st_ino, target)
        return target

    def torn(self, target: Path, source: Path | None = None) -> Path:
        """The names as they are now, and zeros where the content was not synced."""
        source = source or self.root
        target.mkdir(parents=True)
        for path in source.iterdir():
            if path.is_dir():
                self.torn(target / path.name, path)
            else:
                content = self._content.get(path.stat().st_ino, bytes(path.stat().st_size))
                (target / path.name).write_bytes(content)
        return target

    def _restore(self, number: int, target: Path) -> None:
        target.mkdir(parents=True)
        for name, (inner, is_folder) in self._names.get(number, {}).items():
            if is_folder:
                self._restore(inner, target / name)
            else:
                (target / name).write_bytes(self._content.get(inner, b""))


def listing(folder: Path) -> Names:
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}


@contextmanager
def watched(root: Path, at: Callable[[str], None], disk: Disk | None = None) -> Iterator[None]:
    """Inside, `at` is called before and after every file operation below `root`, with "before NAME" or "after NAME".

    It may raise: the operation then has not happened, or has (a write: half of it).
    """
    true: dict[str, Any] = {name: getattr(os, name) for name in OPERATIONS}
    true_open = io.open

    def inside(path: Any, dir_fd: int | None = None) -> bool:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif dir_fd is not None:
            path = Path(f"/proc/self/fd/{dir_fd}").readlink() / os.fspath(path)
        return Path(path).absolute().is_relative_to(root)

    def around(name: str) -> Callable[..., Any]:
        def operation(path: Any, *args: Any, **kwargs: Any) -> Any:
            reads = name == "open" and not (args[0] if args else kwargs.get("flags", 0)) & os.O_CREAT
            if reads or not inside(path, kwargs.get("dir_fd")):
                return true[name](path, *args, **kwargs)
            at(f"before {name}")
            if name in ("unlink", "rmdir") and disk is not None:
                disk.before_unlink(os.stat(path, dir_fd=kwargs.get("dir_fd"), follow_symlinks=False).st_ino)
            found = true[name](path, *args, **kwargs)
            if name == "fsync" and disk is not None:
                disk.after_fsync(path)
            at(f"after {name}")
            return found

        return operation

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not any(letter in mode for letter in "wxa") or not inside(file):
            return true_open(file, mode, *args, **kwargs)
        if not isinstance(file, int):
            at("before create")
        found = true_open(file, mode, *args, **kwargs)
        return Torn(found, at)

    patches = [patch.object(os, name, around(name)) for name in OPERATIONS if name != "write"]
    patches += [patch.object(io, "open", opened), patch("builtins.open", opened), patch.object(os, "fdopen", opened)]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


class Torn:
    """A file whose writes can be interrupted halfway."""

    def __init__(self, file: Any, at: Callable[[str], None]) -> None:
        self._file, self._at = file, at

    def write(self, content: Any) -> int:
        self._at("before write")
        half = len(content) // 2
        done = self._file.write(content[:half])
        self._file.flush()
        self._at("within write")
        return int(done + self._file.write(content[half:]))

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Fault:
    """Raise an error at the nth file operation; `moments` counts them."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number, self.error, self.moments = number, error, 0

    def __call__(self, moment: str) -> None:
        self.moments += 1
        if self.moments == self.number:
            raise self.error

    @property
    def came(self) -> bool:
        return self.moments >= self.number


class Death(BaseException):
    """The simulated death of the process: no code after it runs."""


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def io_error() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))

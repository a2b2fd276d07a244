"""Lock files that tell which process is alive.

A process holds the `flock` for life, and the kernel releases it on any death, so a lock is never stale. The body of the
file (JSON: pid, start time, attempt, boot id, ...) only says which process to signal; a reused pid cannot mislead.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import psutil
from pydantic import Field, TypeAdapter

from toolkit.errors import RunError
from toolkit.system.foreign_files import read_foreign_json

LOCK_TIMEOUT_SECONDS = 5.0
"""Readers hold the lock for microseconds: after this time the holder is a living process."""
START_TOLERANCE_SECONDS = 0.5  # create_time is exact to a clock tick (10 ms) and shifts a little when the clock is set


@dataclass(frozen=True)
class LockHolder:
    """A process as its lock file describes it.

    pid: 0 while the process is not started yet and the lock is held for it. create_time: Unix seconds. launcher_*: the
    parent that started several ranks, if there is one.
    """

    pid: Annotated[int, Field(ge=0, lt=2**31)]
    create_time: float
    attempt: int
    boot: str
    run: str = ""
    launcher_pid: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    launcher_create_time: float | None = None

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> LockHolder:
        """Return the holder from its JSON; ignore fields of newer versions. Raises ValueError."""
        return _HOLDER.validate_python(body)

    def is_alive(self) -> bool:
        """Return whether this process is alive, and not another one with its pid."""
        return self.boot == boot_id() and is_process_alive(self.pid, self.create_time)


_HOLDER = TypeAdapter(LockHolder)


def boot_id() -> str:
    """Return an id that changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


def is_process_alive(pid: int, create_time: float) -> bool:
    """Return whether process `pid` is alive (a zombie is not) and started at `create_time` (Unix seconds)."""
    if pid <= 0:
        return False
    try:
        process = psutil.Process(pid)
        return (
            abs(process.create_time() - create_time) < START_TOLERANCE_SECONDS
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def describe_self(attempt: int, run: str = "") -> LockHolder:
    """Return the description of this process for a lock file."""
    me = psutil.Process()
    launcher = me.parent() if "TORCHELASTIC_RUN_ID" in os.environ else None
    return LockHolder(
        pid=me.pid,
        create_time=me.create_time(),
        attempt=attempt,
        boot=boot_id(),
        run=run,
        launcher_pid=launcher.pid if launcher else None,
        launcher_create_time=launcher.create_time() if launcher else None,
    )


def try_lock(path: Path) -> int | None:
    """Take the lock and return the open descriptor that holds it; None when another process holds it.

    Closing the descriptor releases the lock.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def hold_lock(path: Path) -> Iterator[bool]:
    """Hold the lock during the block. Yields False when another process holds it."""
    handle = try_lock(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock inside the block; wait for as long as another process or thread holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_lock_held(path: Path) -> bool:
    """Return whether a living process holds the lock."""
    # tested with a shared lock, so that two readers never take each other for a holder
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for a writer
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):  # none, a link to itself, a socket
            return False
        raise
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def write_lock_holder(handle: int, holder: LockHolder) -> None:
    """Replace the body of the lock file that `handle` holds."""
    raw = json.dumps(asdict(holder)).encode()
    os.pwrite(handle, raw, 0)  # before truncating: a full disk then leaves the old body, not an empty file
    os.ftruncate(handle, len(raw))


def read_lock_holder(path: Path) -> LockHolder | None:
    """Return the description that the last holder wrote, alive or not; None when there is none (yet)."""
    try:
        return LockHolder.from_json(read_foreign_json(path))
    except (OSError, ValueError):
        return None


class WorkerLock:
    """The lock that a worker holds for life: `with WorkerLock(run.lock_path, attempt): ...`.

    Entering raises RunError when another worker holds the lock. Forked children release it at once, so that an
    orphaned data loader is not taken for a living worker.
    """

    def __init__(self, path: Path, attempt: int = 1, run: str = "") -> None:
        self._path, self._attempt, self._run = path, attempt, run
        self._handle: int | None = None

    def __enter__(self) -> WorkerLock:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while (handle := try_lock(self._path)) is None:
            if time.monotonic() > deadline:
                raise RunError("Another worker is already training this run.", "Watch it on the Runs page.")
            time.sleep(0.02)
        self._handle = handle
        os.register_at_fork(after_in_child=self._release_in_child)
        write_lock_holder(handle, describe_self(self._attempt, self._run))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _release_in_child(self) -> None:
        self.__exit__(None, None, None)  # close() in a child keeps the parent's lock; LOCK_UN would release it


def list_holder_processes(holder: LockHolder) -> list[psutil.Process]:
    """Return the living processes of a holder: itself, its launcher, and all their children."""
    members: dict[int, psutil.Process] = {}
    roots: list[tuple[int | None, Any]] = [
        (holder.launcher_pid, holder.launcher_create_time),
        (holder.pid, holder.create_time),
    ]
    for pid, create_time in roots:
        if pid is None or not is_process_alive(pid, create_time):
            continue
        try:
            process = psutil.Process(pid)
            for member in (process, *process.children(recursive=True)):
                members[member.pid] = member
        except psutil.NoSuchProcess:
            continue  # it ended since the check
    return list(members.values())


def end_holder_processes(holder: LockHolder, grace_seconds: float = 5.0) -> bool:
    """Send SIGTERM to the holder's processes, wait, and send SIGKILL to those left. Return whether there were any.

    A process is signaled only if pid, start time and boot id match, so a reused pid is safe.
    """
    if holder.boot != boot_id():
        return False
    members = list_holder_processes(holder)
    for member in members:
        _signal_process(member, "terminate")
    _, left = psutil.wait_procs(members, timeout=grace_seconds)
    for member in left:
        for child in _list_children(member):
            _signal_process(child, "kill")
        _signal_process(member, "kill")
    psutil.wait_procs(left, timeout=grace_seconds)
    return bool(members)


def _list_children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal_process(process: psutil.Process, how: str) -> None:
    try:
        process.terminate() if how == "terminate" else process.kill()
    except psutil.NoSuchProcess:
        return  # it has ended, or its pid is in use again: psutil compares the start time

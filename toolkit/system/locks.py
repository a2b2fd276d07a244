"""Who is alive: a flock that a process holds for life and that the kernel drops on any death.

So there are no stale locks, and a reused pid can't mislead: the body (pid, start time, attempt, boot) only
says whom to signal, the lock itself says whether anybody lives. Knows files and processes, nothing of runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from toolkit.errors import RunError

LOCK_TIMEOUT_SECONDS = 5.0  # a reader's look at the lock lasts microseconds; longer means that somebody lives
START_TOLERANCE_SECONDS = 0.5  # seconds: create_time is exact to a clock tick and shifts a little when the clock is set


@dataclass(frozen=True)
class LockHolder:
    """A process as its lock file describes it; `launcher_*` is the parent that started several ranks, if any.

    pid 0: not started yet, the lock is held for it.
    """

    pid: int
    create_time: float
    attempt: int
    boot: str
    run: str = ""
    launcher_pid: int | None = None
    launcher_create_time: float | None = None

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> LockHolder:
        """From its JSON, perhaps another version's with fields that are not known here. Raises TypeError."""
        names = {known.name for known in fields(cls)}
        return cls(**{name: value for name, value in body.items() if name in names})

    def is_alive(self) -> bool:
        """Whether this very process lives, not another one with its pid."""
        return self.boot == boot_id() and is_process_alive(self.pid, self.create_time)


def boot_id() -> str:
    """Differs after every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


def is_process_alive(pid: int, create_time: float) -> bool:
    """Whether process `pid` lives (a zombie does not) and began at `create_time` (Unix seconds)."""
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
    """This process, for a lock's body."""
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
    """An open descriptor that holds the lock, or None when somebody holds it; closing the descriptor frees it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
    """Hold the lock inside the block; yields False when somebody else holds it."""
    handle = try_lock(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock inside the block; wait for as long as another process or thread holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_lock_held(path: Path) -> bool:
    """Whether a living process holds the lock. Looks with a shared lock: two readers never see each other."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
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
    os.pwrite(handle, raw, 0)  # before the cut: a full disk then leaves the old body, not an empty one
    os.ftruncate(handle, len(raw))


def read_lock_holder(path: Path) -> LockHolder | None:
    """The last holder's own words; None when there are none (yet). Says nothing about whether it lives."""
    try:
        return LockHolder.from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


class WorkerLock:
    """Held by the worker for life: `with WorkerLock(run.lock_path, attempt): ...`.

    Entering raises RunError when another worker holds the lock. Children made by fork give the lock up at once, so
    that an orphaned data loader can't pass for a living worker.
    """

    def __init__(self, path: Path, attempt: int = 1, run: str = "") -> None:
        self._path, self._attempt, self._run = path, attempt, run
        self._handle: int | None = None

    def __enter__(self) -> WorkerLock:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while (handle := try_lock(self._path)) is None:
            if time.monotonic() > deadline:
                raise RunError("Another worker is training this run.", "Watch it on the Runs page.")
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
        self.__exit__(None, None, None)  # close() in a child leaves the parent's lock alone; LOCK_UN would not


def list_holder_processes(holder: LockHolder) -> list[psutil.Process]:
    """The living processes that a holder answers for: itself, its launcher, and all their children."""
    found: dict[int, psutil.Process] = {}
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
                found[member.pid] = member
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return list(found.values())


def end_holder_processes(holder: LockHolder, grace_seconds: float = 5.0) -> bool:
    """SIGTERM the holder's tree, wait, SIGKILL what is left; returns whether anything was there to end.

    Nothing is signalled unless pid, start time and boot match: a reused pid is left alone.
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
        return  # psutil compares the start time itself: ended, or the pid is another's now

"""The lease of a run on a cluster: what keeps two machines from training it at the same time.

The worker process on this machine holds the run's locks and renews `cluster.lease` in the run's folder every second.
The guard on the node starts the training only when it sees the lease change, and ends it when it has seen no change for
`lease_seconds()`, when the lease is of another attempt, or when it asks for an end. Clocks are not compared: each side
measures with its own. The report of an attempt (`node/report-1.json`) is written only when no process of it is left on
any node; the next attempt waits for it, or for so long that the guard must have ended everything.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter

from toolkit.errors import RunError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json

LEASE_VARIABLE, NODE_VARIABLE = "FTK_CLUSTER_LEASE", "FTK_ON_CLUSTER"
DEFAULT_LEASE_SECONDS = 20.0
RENEWAL_SECONDS = 1.0
RELEASE_FACTOR, RELEASE_MARGIN_SECONDS = 1.5, 2.0
"""The holder waits longer than the guard: for a slow look at the file, and for the end of the processes."""
_LEASE_BYTES = 96
NODE_LOST = "node_lost"
NODE_FOLDER = "node"
"""Folder in the run's, for what is known of the machines that train it."""


def lease_seconds() -> float:
    """Return after how many seconds without a renewal a node ends the training."""
    try:
        return max(2.0, float(os.environ.get(LEASE_VARIABLE, DEFAULT_LEASE_SECONDS)))
    except ValueError:
        return DEFAULT_LEASE_SECONDS


@dataclass(frozen=True)
class Lease:
    """What the file says. beat: counts the renewals. end: the processes on the node are to end politely."""

    attempt: int
    beat: int
    end: bool = False


@dataclass(frozen=True)
class NodeReport:
    """How an attempt ended on its node; no process of it is left there.

    code: as `subprocess` gives it. oom: whether the node's kernel killed a process for memory meanwhile; None if it
    keeps no count. reason, message, hint: what else ended it, or kept it from beginning; "" if the code says all.
    """

    attempt: int
    code: int | None = None
    oom: bool | None = None
    host: str = ""
    reason: str = ""
    message: str = ""
    hint: str = ""
    outside: bool = False


_LEASE, _REPORT = TypeAdapter(Lease), TypeAdapter(NodeReport)


def is_on_cluster() -> bool:
    """Return whether this process trains a run whose locks the worker process of another machine holds."""
    return os.environ.get(NODE_VARIABLE) == "1"


def lease_path(folder: Path) -> Path:
    """Return the lease of the run in this folder; it exists once an attempt was given to a cluster."""
    return folder / "cluster.lease"


def begun_path(folder: Path, attempt: int) -> Path:
    """Return the file that exists once an attempt's training may have been started on a node."""
    return folder / NODE_FOLDER / f"attempt-{attempt}"


def read_lease(folder: Path) -> Lease | None:
    """Return the lease; None when there is none, or while it is being written."""
    try:
        return _LEASE.validate_json(lease_path(folder).read_bytes())
    except (OSError, ValueError):
        return None


class LeaseHolder:
    """Renews the lease of an attempt. Only the holder of worker.lock may have one. Raises OSError."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._attempt, self._beat = attempt, 0
        self._handle = os.open(lease_path(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.renew()

    def renew(self, *, end: bool = False) -> None:
        """Show the node that this process is alive. end: ask it to end the training politely."""
        self._beat += 1
        body = json.dumps(asdict(Lease(self._attempt, self._beat, end)))
        # in place and of one length: other machines may know the name of a replaced file for a minute
        os.pwrite(self._handle, body.ljust(_LEASE_BYTES).encode(), 0)
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


class LeaseWatch:
    """Watches the lease of an attempt in a thread, because a lost network drive may block every read for minutes.

    is_begun: the lease has changed since. is_lost: it is another attempt's, or has not changed for `lease_seconds()`.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder, self._attempt = folder, attempt
        self._limit = lease_seconds()
        self._changed = time.monotonic()
        self._foreign, self._ended = False, threading.Event()
        self.is_begun = self.wants_end = False
        self._thread = threading.Thread(target=self._watch, name="lease", daemon=True)

    @property
    def is_lost(self) -> bool:
        return self._foreign or time.monotonic() - self._changed > self._limit

    def __enter__(self) -> LeaseWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()

    def _watch(self) -> None:
        first: Lease | None = None
        last: Lease | None = None
        while not self._ended.wait(RENEWAL_SECONDS / 4):
            began, found = time.monotonic(), read_lease(self._folder)
            if found is None or found == last:
                continue
            self._foreign = found.attempt != self._attempt
            first = first or found
            self.wants_end = found.end
            self.is_begun = not self._foreign and found != first
            # the moment before the read: a read that hung may bring an old state
            last, self._changed = found, began


def check_lease(folder: Path, attempt: int) -> None:
    """Raise RunError if a later attempt has begun: this process must write no more."""
    found = read_lease(folder)
    if found is not None and found.attempt > attempt:
        raise RunError(f"Attempt {found.attempt} of this run has begun elsewhere.", "Nothing is left to do.", "fenced")


def read_report(folder: Path, attempt: int) -> NodeReport | None:
    """Return how an attempt ended on its node; None while that is unknown."""
    try:
        found = _REPORT.validate_python(read_foreign_json(_report_path(folder, attempt)))
    except (OSError, ValueError):
        return None
    return found if found.attempt == attempt else None


def write_report(folder: Path, report: NodeReport) -> None:
    """Record that no process of an attempt is left on any node, and how it ended. Raises OSError."""
    path = _report_path(folder, report.attempt)
    path.parent.mkdir(exist_ok=True)
    durable_write(path, json.dumps(asdict(report)))


def wait_for_release(folder: Path, attempt: int) -> NodeReport | None:
    """Wait until no process of this attempt can be left on a node. The lease must not be renewed meanwhile."""
    deadline = time.monotonic() + lease_seconds() * RELEASE_FACTOR + RELEASE_MARGIN_SECONDS
    while (report := read_report(folder, attempt)) is None and time.monotonic() < deadline:
        time.sleep(RENEWAL_SECONDS / 4)
    return report


def wait_for_earlier_attempts(folder: Path, attempt: int) -> None:
    """Wait until no process of an earlier attempt can be left on a node. Call it holding worker.lock."""
    earlier = read_lease(folder)
    if earlier is not None and earlier.attempt < attempt:
        wait_for_release(folder, earlier.attempt)


def _report_path(folder: Path, attempt: int) -> Path:
    # one for each attempt: a node that was cut off may write its report long after another one has trained
    return folder / NODE_FOLDER / f"report-{attempt}.json"

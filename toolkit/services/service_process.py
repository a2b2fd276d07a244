"""A process that serves one save_dir over the loopback: found, started and ended. The engine is one, the warm worker
another; what they serve is theirs.

`<save_dir>/<name>/<name>.json` (0600) tells where the living one is: port, pid with start time, token. It is believed
only while that process holds `<name>.lock` beside it. Speaks no HTTP: that is `service_http.py`'s.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from toolkit.errors import ToolkitError
from toolkit.services.fork_client import ForkedProcess
from toolkit.system.locks import LockHolder, boot_id, end_holder_processes, is_lock_held, is_process_alive, try_lock
from toolkit.system.spawn import reap_in_background, start_detached_process

SERVICE_SCHEMA = 1
_START_SECONDS = 30.0  # until the server announces itself; what is heavy loads after that
_START_LOCK_SECONDS = 60.0
_LOCK_RELEASE_SECONDS = 10.0
_POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 4000
CLEAN_EXIT_LINE = "Ended in order."
"""The last line in the log of a process that ended as asked."""


@dataclass(frozen=True)
class Service:
    """A kind of serving process. name: of its folder and files. module: what python -m runs.

    title begins a sentence about it ("The engine"). stuck, gone: what to do when it doesn't answer, or has ended.
    own: sets it apart from processes of the same name that other installations of the toolkit keep for a save_dir.
    """

    name: str
    module: str
    title: str
    error: type[ToolkitError]
    stuck: str
    gone: str
    own: str = ""

    def folder(self, save_dir: Path) -> Path:
        return save_dir / self.name / self.own

    def file(self, save_dir: Path, ending: str) -> Path:
        """ "json", "lock" or "log"."""
        return self.folder(save_dir) / f"{self.name}.{ending}"


@dataclass(frozen=True)
class ServiceInfo:
    """Where a living process is. create_time: Unix seconds. A subclass names its service and what else it announces."""

    save_dir: Path
    port: int
    pid: int
    create_time: float
    token: str = field(repr=False)

    service: ClassVar[Service]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


_AnyServiceInfo = TypeVar("_AnyServiceInfo", bound=ServiceInfo)


def find_service(kind: type[_AnyServiceInfo], save_dir: Path) -> _AnyServiceInfo | None:
    """The living process of `save_dir`, whoever started it; None when there is none."""
    save_dir = save_dir.absolute()
    try:
        body: dict[str, Any] = json.loads(kind.service.file(save_dir, "json").read_bytes())
        if body.pop("schema") != SERVICE_SCHEMA:
            return None
        info = kind(save_dir=save_dir, **body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none was announced, or it is being written by another version
    return info if is_service_alive(info) else None


def is_service_alive(info: ServiceInfo) -> bool:
    """Whether this very process still serves."""
    return is_lock_held(info.service.file(info.save_dir, "lock")) and is_process_alive(info.pid, info.create_time)


@contextmanager
def lock_service_start(service: Service, save_dir: Path) -> Iterator[None]:
    """Two pages that start one at once get the same one. Raises the service's error when another start hangs."""
    folder = service.folder(save_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    end = time.monotonic() + _START_LOCK_SECONDS
    while (handle := try_lock(folder / "start.lock")) is None:
        if time.monotonic() > end:
            message = f"{service.title} is being started by another program, which does not finish."
            raise service.error(message, "Close that program, or wait.")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(handle)


def spawn_service(
    kind: type[_AnyServiceInfo],
    save_dir: Path,
    environment: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    fork: Callable[[dict[str, str], Path], ForkedProcess] | None = None,
) -> _AnyServiceInfo:
    """Start the process in a session of its own; returns once it has announced itself (call in `one_at_a_time`).

    Its token arrives in FTK_SERVICE_TOKEN. fork: (environment, log) -> the process, in place of a new one of `module`.
    Raises the service's error with the end of its log when it ends instead; OSError when it does not begin.
    """
    service = kind.service
    _wait_for_lock_release(service, save_dir)
    log = service.file(save_dir, "log")
    whole = {**environment, "FTK_SAVE_DIR": str(save_dir), "FTK_SERVICE_TOKEN": secrets.token_urlsafe(32)}
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        argv = [sys.executable, "-m", service.module]
        process = fork(whole, log) if fork else start_detached_process(argv, whole, output, pass_fds=pass_fds)
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        info = find_service(kind, save_dir)
        if info is not None and info.pid == process.pid:
            if not isinstance(process, ForkedProcess):  # a fork is no child of this process
                reap_in_background(process, service.name)
            return info
        time.sleep(_POLL_SECONDS)
    process.kill()
    process.wait()
    raise service.error(
        f"{service.title} could not be started.", read_service_log_tail(service, save_dir) or f"Its log: {log}"
    )


def _wait_for_lock_release(service: Service, save_dir: Path) -> None:
    """One that was killed is dead before the last of its threads has let go of the lock."""
    until = time.monotonic() + _LOCK_RELEASE_SECONDS
    while is_lock_held(service.file(save_dir, "lock")) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def end_service(info: ServiceInfo, grace_seconds: float) -> None:
    """Wait for the process to end by itself, then make it: SIGTERM, SIGKILL. Never another process with its pid."""
    deadline = time.monotonic() + grace_seconds
    while is_process_alive(info.pid, info.create_time) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if is_process_alive(info.pid, info.create_time):
        end_holder_processes(LockHolder(info.pid, info.create_time, 1, boot_id()), grace_seconds=2.0)


def read_service_log_tail(service: Service, save_dir: Path) -> str:
    """The last lines that the process wrote, or "" when there are none or it ended in order."""
    try:
        with service.file(save_dir, "log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if lines and lines[-1] == CLEAN_EXIT_LINE:
        return ""
    return "Its log ends with: " + " / ".join(lines[-2:]) if lines else ""

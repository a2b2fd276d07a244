"""Processes that serve one save_dir over the loopback interface: finding, starting and ending them.

`<save_dir>/<name>/<name>.json` (mode 0600) holds the address of the running process: port, pid, start time, token. It
is valid only while that process holds `<name>.lock` in the same folder, and if this installation has signed it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from toolkit.errors import RunError, ToolkitError
from toolkit.services.fork_client import ForkedProcess
from toolkit.system.durable import sign_body
from toolkit.system.foreign_files import open_regular_file, read_foreign_json
from toolkit.system.locks import LockHolder, boot_id, end_holder_processes, is_lock_held, is_process_alive, try_lock
from toolkit.system.spawn import reap_in_background, start_detached_process

SERVICE_SCHEMA = 1
_START_SECONDS = 30.0
"""Until the server is up; models and libraries load after that."""
_START_LOCK_SECONDS = 60.0
"""Twice the time of a start: another program that takes longer hangs."""
_LOCK_RELEASE_SECONDS = 10.0
"""A killed process with a large memory needs seconds to release its lock."""
_POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 4000
CLEAN_EXIT_LINE = "Ended normally."
"""The last line in the log of a process that was asked to end."""


@dataclass(frozen=True)
class Service:
    """A kind of service process.

    name: of its folder and files. module: run with `python -m`. title: begins a sentence about it ("The engine").
    error: class of its errors. stuck, gone: hints for when it does not answer, or has ended. own: subfolder that
    separates it from the processes of other installations for the same save_dir.
    """

    name: str
    module: str
    title: str
    error: type[ToolkitError]
    stuck: str
    gone: str
    own: str = ""

    def folder(self, save_dir: Path) -> Path:
        """Return the folder of its files."""
        return save_dir / self.name / self.own

    def file(self, save_dir: Path, ending: str) -> Path:
        """Return the path of one of its files. ending: "json", "lock" or "log"."""
        return self.folder(save_dir) / f"{self.name}.{ending}"


@dataclass(frozen=True)
class ServiceInfo:
    """Address of a running service process. create_time: Unix seconds.

    A subclass sets `service` and adds the further fields of its JSON file.
    """

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
    """Return the running process of `save_dir`, whichever program started it; None when there is none."""
    save_dir = save_dir.absolute()
    try:
        body: dict[str, Any] = read_foreign_json(kind.service.file(save_dir, "json"))
        signature = str(body.pop("hmac"))
        if body["schema"] != SERVICE_SCHEMA or not hmac.compare_digest(signature, sign_service_body(save_dir, body)):
            return None
        del body["schema"]
        info = kind(save_dir=save_dir, **body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RunError):
        return None  # there is no file, or another version or another program writes it
    return info if is_service_alive(info) else None


def sign_service_body(save_dir: Path, body: Mapping[str, Any]) -> str:
    """Return the signature of a service's JSON file, which is valid for its save_dir only. Raises RunError."""
    return sign_body({**body, "save_dir": str(save_dir.absolute())})


def is_service_alive(info: ServiceInfo) -> bool:
    """Return whether this process still serves, and not another one with its pid."""
    return is_lock_held(info.service.file(info.save_dir, "lock")) and is_process_alive(info.pid, info.create_time)


@contextmanager
def lock_service_start(service: Service, save_dir: Path) -> Iterator[None]:
    """Lock the start of the service, so that two pages that start it at once get the same process.

    Raises the service's error when another start hangs.
    """
    folder = service.folder(save_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + _START_LOCK_SECONDS
    while (handle := try_lock(folder / "start.lock")) is None:
        if time.monotonic() > deadline:
            message = f"{service.title} is being started by another program, which has not finished."
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
    """Start the process in its own session; return when its server is up. Call it inside `lock_service_start`.

    The process finds its token in FTK_SERVICE_TOKEN. fork: (environment, log) -> the process; used in the place of a
    new process. Raises the service's error with the end of its log when the process ends, or OSError when it can't be
    started.
    """
    service = kind.service
    _wait_for_lock_release(service, save_dir)
    log = service.file(save_dir, "log")
    full_environment = {**environment, "FTK_SAVE_DIR": str(save_dir), "FTK_SERVICE_TOKEN": secrets.token_urlsafe(32)}
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        argv = [sys.executable, "-m", service.module]
        if fork:
            process: subprocess.Popen[bytes] | ForkedProcess = fork(full_environment, log)
        else:
            process = start_detached_process(argv, full_environment, output, pass_fds=pass_fds)
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        info = find_service(kind, save_dir)
        if info is not None and info.pid == process.pid:
            if not isinstance(process, ForkedProcess):  # a fork is not a child of this process
                reap_in_background(process, service.name)
            return info
        time.sleep(_POLL_SECONDS)
    process.kill()
    process.wait()
    raise service.error(
        f"{service.title} could not be started.", read_service_log_tail(service, save_dir) or f"Its log: {log}"
    )


def _wait_for_lock_release(service: Service, save_dir: Path) -> None:
    """Wait until a killed predecessor has released its lock: it is dead before its last thread has let go."""
    until = time.monotonic() + _LOCK_RELEASE_SECONDS
    while is_lock_held(service.file(save_dir, "lock")) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def end_service(info: ServiceInfo, grace_seconds: float) -> None:
    """Wait for the process to end by itself, then send SIGTERM and SIGKILL. A reused pid is not signaled."""
    deadline = time.monotonic() + grace_seconds
    while is_process_alive(info.pid, info.create_time) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if is_process_alive(info.pid, info.create_time):
        end_holder_processes(LockHolder(info.pid, info.create_time, 1, boot_id()), grace_seconds=2.0)


def read_service_log_tail(service: Service, save_dir: Path) -> str:
    """Return the last lines that the process wrote, or "" when there are none or it ended normally."""
    try:
        with open_regular_file(service.file(save_dir, "log")) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read(LOG_TAIL_BYTES).decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if lines and lines[-1] == CLEAN_EXIT_LINE:
        return ""
    return "Its log ends with: " + " / ".join(lines[-2:]) if lines else ""

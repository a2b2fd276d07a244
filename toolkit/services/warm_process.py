"""The process of the background worker: when it may run, when it is out of date, and how it is started.

It ends with the program that started it: it holds one end of a socket pair, and the kernel closes the other end when
that program dies.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

from toolkit.errors import WarmError
from toolkit.services import service_process
from toolkit.services.fork_client import ForkedProcess
from toolkit.services.service_process import Service, ServiceInfo
from toolkit.services.spare_process import wait_for_fork_server
from toolkit.system.build_id import build_id, installation_id
from toolkit.system.machine import free_memory_bytes
from toolkit.system.printable import format_bytes
from toolkit.system.spawn import library_environment

WARM_VARIABLE = "FTK_WARM"
"""Environment variable; "off" keeps this program from starting a background worker."""
WARM_START_FREE_BYTES = 1_200_000_000
"""Free memory that a start needs: the imported libraries take about half of it."""
WARM_MIN_FREE_BYTES = 500_000_000
"""With less free memory, an idle background worker exits."""
FORK_SERVER_WAIT_SECONDS = 90.0
"""Longest wait for the imports of this program's standby worker, from which the background worker is forked."""

WARM_SERVICE = Service(
    name="warm",
    module="toolkit.worker.warm",
    title="The background worker",
    error=WarmError,
    stuck="It may be busy. Try again in a moment.",
    gone="Try again: this starts a new one.",
    own=installation_id(),  # each installation would replace the other's worker, whose code differs, again and again
)


@dataclass(frozen=True)
class WarmInfo(ServiceInfo):
    """Address of a running background worker. build: `build_id` of the code that it has imported."""

    build: str

    service: ClassVar[Service] = WARM_SERVICE


_OWNER_SOCKETS: dict[int, socket.socket] = {}
"""This program's end of the socket pair, by pid of the worker. Closing it ends that worker."""


def find_warm_worker(save_dir: Path) -> WarmInfo | None:
    """Return the running background worker of `save_dir`, whichever program started it, even if out of date."""
    return service_process.find_service(WarmInfo, save_dir)


def is_warm_worker_disabled() -> bool:
    """Return whether the environment switches the background worker off."""
    return os.environ.get(WARM_VARIABLE, "").lower() in ("off", "0", "no")


def start_warm_worker(save_dir: Path) -> WarmInfo:
    """Return a running background worker with the current code; start one if necessary.

    A start takes about a second; the imports follow. Raises WarmError when it is switched off, when memory is short,
    or with the last lines of its log when it ended at once.
    """
    with service_process.lock_service_start(WARM_SERVICE, save_dir):
        running = find_warm_worker(save_dir)
        if running is not None and running.build == build_id():
            return running
        if running is not None:
            service_process.end_service(running, grace_seconds=0.0)
        _check_start_allowed()
        return _spawn(save_dir)


def _check_start_allowed() -> None:
    if is_warm_worker_disabled():
        raise WarmError("The background worker is turned off.", f"Start the app without {WARM_VARIABLE}=off.")
    free = free_memory_bytes()
    if free < WARM_START_FREE_BYTES:
        needed = format_bytes(WARM_START_FREE_BYTES)
        message = f"{format_bytes(free)} of memory are free; the background worker needs {needed}."
        raise WarmError(message, "Close other programs. Training does not need the background worker.")


def _spawn(save_dir: Path) -> WarmInfo:
    ours, theirs = socket.socketpair()
    with theirs:
        environment = {
            **library_environment(hub=True),
            "FTK_WARM_OWNER": str(theirs.fileno()),
            "FTK_WARM_BUILD": build_id(),
        }
        try:
            info = _spawn_or_fork(save_dir, environment, theirs.fileno())
        except BaseException:
            ours.close()
            raise
    for pid, owner_socket in list(_OWNER_SOCKETS.items()):
        if not psutil.pid_exists(pid):
            owner_socket.close()
            del _OWNER_SOCKETS[pid]
    _OWNER_SOCKETS[info.pid] = ours
    return info


def _spawn_or_fork(save_dir: Path, environment: dict[str, str], owner: int) -> WarmInfo:
    """Fork it from the standby worker, which has imported the libraries; start a new process if there is none."""
    server = wait_for_fork_server(save_dir, FORK_SERVER_WAIT_SECONDS)
    if server is None:
        return service_process.spawn_service(WarmInfo, save_dir, environment, pass_fds=[owner])

    def fork(full_environment: dict[str, str], log: Path) -> ForkedProcess:
        return server.fork("warm", [], full_environment, log, owner)

    return service_process.spawn_service(WarmInfo, save_dir, environment, fork=fork)

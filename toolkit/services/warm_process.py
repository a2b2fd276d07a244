"""The warm worker's process: when there may be one, when it is stale, and how it is started. `warm.py` asks it.

It lives as long as the program that started it: it holds one end of a socket pair, whose other end the kernel closes
on any death. Speaks no HTTP.
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
from toolkit.system.spawn import library_environment

WARM_VARIABLE = "FTK_WARM"
"""Environment variable; "off" keeps this program from ever starting a warm worker."""
WARM_START_FREE_BYTES = 1_200_000_000
"""Free memory without which none is started: the imported libraries take about half of it."""
WARM_MIN_FREE_BYTES = 500_000_000
"""Less free memory than this, and an idle one gives its own back."""
FORK_SERVER_WAIT_SECONDS = 90.0
"""It begins as a fork of the spare where this program keeps one: that one's imports are waited for so long."""

WARM_SERVICE = Service(
    name="warm",
    module="toolkit.worker.warm",
    title="The warm worker",
    error=WarmError,
    stuck="It may be busy: try again in a moment.",
    gone="Try again: a new one is started.",
    own=installation_id(),  # two would replace each other's for ever: neither is of the other's code
)


@dataclass(frozen=True)
class WarmInfo(ServiceInfo):
    """Where a living warm worker is. build: `build_id` of what it has imported."""

    build: str

    service: ClassVar[Service] = WARM_SERVICE


_OWNER_SOCKETS: dict[int, socket.socket] = {}
"""pid -> our end of the pair; closing it ends that worker. An open file can be sent to the worker through it."""


def find_warm_worker(save_dir: Path) -> WarmInfo | None:
    """The living warm worker of `save_dir`, stale or not, whoever started it."""
    return service_process.find_service(WarmInfo, save_dir)


def is_warm_worker_disabled() -> bool:
    return os.environ.get(WARM_VARIABLE, "").lower() in ("off", "0", "no")


def start_warm_worker(save_dir: Path) -> WarmInfo:
    """The living and fresh warm worker of `save_dir`, started if there is none (about a second; it imports after that).

    Raises WarmError: switched off, too little memory, or its log's last lines when it ended at once.
    """
    with service_process.lock_service_start(WARM_SERVICE, save_dir):
        living = find_warm_worker(save_dir)
        if living is not None and living.build == build_id():
            return living
        if living is not None:
            service_process.end_service(living, grace_seconds=0.0)
        _check_start_allowed()
        return _spawn(save_dir)


def _check_start_allowed() -> None:
    if is_warm_worker_disabled():
        raise WarmError("The warm worker is switched off.", f"Start the app without {WARM_VARIABLE}=off.")
    free = free_memory_bytes()
    if free < WARM_START_FREE_BYTES:
        message = f"{free / 1e9:.1f} GB of memory are free; the warm worker needs {WARM_START_FREE_BYTES / 1e9:.1f} GB."
        raise WarmError(message, "End other programs. Training itself does not need it.")


def _spawn(save_dir: Path) -> WarmInfo:
    ours, its = socket.socketpair()
    with its:
        environment = {
            **library_environment(hub=True),
            "FTK_WARM_OWNER": str(its.fileno()),
            "FTK_WARM_BUILD": build_id(),
        }
        try:
            info = _spawn_or_fork(save_dir, environment, its.fileno())
        except BaseException:
            ours.close()
            raise
    for pid, end in list(_OWNER_SOCKETS.items()):
        if not psutil.pid_exists(pid):
            end.close()
            del _OWNER_SOCKETS[pid]
    _OWNER_SOCKETS[info.pid] = ours
    return info


def _spawn_or_fork(save_dir: Path, environment: dict[str, str], owner: int) -> WarmInfo:
    """As a fork of the process that has imported the libraries already; on its own where there is none."""
    server = wait_for_fork_server(save_dir, FORK_SERVER_WAIT_SECONDS)
    if server is None:
        return service_process.spawn_service(WarmInfo, save_dir, environment, pass_fds=[owner])

    def fork(whole: dict[str, str], log: Path) -> ForkedProcess:
        return server.fork("warm", [], whole, log, owner)

    return service_process.spawn_service(WarmInfo, save_dir, environment, fork=fork)

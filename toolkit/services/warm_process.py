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
from toolkit.services.fork_client import Forked
from toolkit.services.service_process import Service, ServiceInfo
from toolkit.services.spare_process import server_for
from toolkit.system.build_id import build_id, installation
from toolkit.system.machine import free_bytes
from toolkit.system.spawn import library_environment

SWITCH = "FTK_WARM"
"""Environment variable; "off" keeps this program from ever starting a warm worker."""
NEEDED_BYTES = 1_200_000_000
"""Free memory without which none is started: the imported libraries take about half of it."""
SHORT_BYTES = 500_000_000
"""Less free memory than this, and an idle one gives its own back."""
IMPORT_SECONDS = 90.0
"""It begins as a fork of the spare where this program keeps one: that one's imports are waited for so long."""

WARM = Service(
    name="warm",
    module="toolkit.worker.warm",
    title="The warm worker",
    error=WarmError,
    stuck="It may be busy: try again in a moment.",
    gone="Try again: a new one is started.",
    own=installation(),  # two would replace each other's for ever: neither is of the other's code
)


@dataclass(frozen=True)
class WarmInfo(ServiceInfo):
    """Where a living warm worker is. build: `build_id` of what it has imported."""

    build: str

    service: ClassVar[Service] = WARM


_OWNED: dict[int, socket.socket] = {}
"""pid -> our end of the pair; closing it ends that worker. An open file can be sent to the worker through it."""


def find(save_dir: Path) -> WarmInfo | None:
    """The living warm worker of `save_dir`, stale or not, whoever started it."""
    return service_process.find(WarmInfo, save_dir)


def switched_off() -> bool:
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no")


def start(save_dir: Path) -> WarmInfo:
    """The living and fresh warm worker of `save_dir`, started if there is none (about a second; it imports after that).

    Raises WarmError: switched off, too little memory, or its log's last lines when it ended at once.
    """
    with service_process.one_at_a_time(WARM, save_dir):
        living = find(save_dir)
        if living is not None and living.build == build_id():
            return living
        if living is not None:
            service_process.end(living, grace_seconds=0.0)
        _refuse()
        return _spawn(save_dir)


def _refuse() -> None:
    if switched_off():
        raise WarmError("The warm worker is switched off.", f"Start the app without {SWITCH}=off.")
    free = free_bytes()
    if free < NEEDED_BYTES:
        message = f"{free / 1e9:.1f} GB of memory are free; the warm worker needs {NEEDED_BYTES / 1e9:.1f} GB."
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
            info = _begin(save_dir, environment, its.fileno())
        except BaseException:
            ours.close()
            raise
    for pid, end in list(_OWNED.items()):
        if not psutil.pid_exists(pid):
            end.close()
            del _OWNED[pid]
    _OWNED[info.pid] = ours
    return info


def _begin(save_dir: Path, environment: dict[str, str], owner: int) -> WarmInfo:
    """As a fork of the process that has imported the libraries already; on its own where there is none."""
    server = server_for(save_dir, IMPORT_SECONDS)
    if server is None:
        return service_process.spawn(WarmInfo, save_dir, environment, pass_fds=[owner])

    def fork(whole: dict[str, str], log: Path) -> Forked:
        return server.fork("warm", [], whole, log, owner)

    return service_process.spawn(WarmInfo, save_dir, environment, fork=fork)

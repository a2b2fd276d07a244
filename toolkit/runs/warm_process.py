"""The warm worker's process: when there may be one, when it is stale, and how it is started. `warm.py` asks it.

It lives as long as the program that started it: it holds one end of a socket pair, whose other end the kernel closes
on any death. Speaks no HTTP.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil

from toolkit.errors import WarmError
from toolkit.runs import service
from toolkit.runs.service import Service, ServiceInfo
from toolkit.runs.spawn import PROJECT_ROOT, library_environment

SWITCH = "FTK_WARM"
"""Environment variable; "off" keeps this program from ever starting a warm worker."""
NEEDED_BYTES = 1_200_000_000
"""Free memory without which none is started: the imported libraries take about half of it."""
SHORT_BYTES = 500_000_000
"""Less free memory than this, and an idle one gives its own back."""
BUILD_SECONDS = 2.0

WARM = Service(
    name="warm",
    module="toolkit.worker.warm",
    title="The warm worker",
    error=WarmError,
    stuck="It may be busy: try again in a moment.",
    gone="Try again: a new one is started.",
)


@dataclass(frozen=True)
class WarmInfo(ServiceInfo):
    """Where a living warm worker is. build: `build_id` of what it has imported."""

    build: str

    service: ClassVar[Service] = WARM


_OWNED: dict[int, socket.socket] = {}
"""pid -> our end of the pair; closing it ends that worker. An open file can be sent to the worker through it."""
_BUILD: list[tuple[float, str]] = []


def find(save_dir: Path) -> WarmInfo | None:
    """The living warm worker of `save_dir`, stale or not, whoever started it."""
    return service.find(WarmInfo, save_dir)


def build_id() -> str:
    """Differs once this code or an installed package has changed: what was imported before is then stale."""
    if _BUILD and time.monotonic() - _BUILD[0][0] < BUILD_SECONDS:
        return _BUILD[0][1]
    files = sorted((PROJECT_ROOT / "toolkit").rglob("*.py"))
    stamps = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    packages = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns  # installing a package renames in here
    found = hashlib.sha256(repr((stamps, packages)).encode()).hexdigest()[:16]
    _BUILD[:] = [(time.monotonic(), found)]
    return found


def switched_off() -> bool:
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "no")


def free_bytes() -> int:
    """Memory that this machine, or this container, can still give."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        cache = next(line for line in (group / "memory.stat").open() if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return free
    return min(free, int(limit) - used + int(cache.split()[1])) if limit.isdigit() else free


def start(save_dir: Path) -> WarmInfo:
    """The living and fresh warm worker of `save_dir`, started if there is none (about a second; it imports after that).

    Raises WarmError: switched off, too little memory, or its log's last lines when it ended at once.
    """
    with service.one_at_a_time(WARM, save_dir):
        living = find(save_dir)
        if living is not None and living.build == build_id():
            return living
        if living is not None:
            service.end(living, grace_seconds=0.0)
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
            info = service.spawn(WarmInfo, save_dir, environment, pass_fds=[its.fileno()])
        except BaseException:
            ours.close()
            raise
    for pid, end in list(_OWNED.items()):
        if not psutil.pid_exists(pid):
            end.close()
            del _OWNED[pid]
    _OWNED[info.pid] = ours
    return info

"""Starts a worker process: its argument list, its environment, its own session, its log file.

No user text is in the arguments, nothing goes through a shell or a pipe. Whether a run may start is `supervisor.py`'s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

import toolkit
from toolkit.config import Config
from toolkit.runs.accelerate_file import accelerate_yaml, process_count
from toolkit.runs.durable import durable_write
from toolkit.runs.lock import Holder, boot_id
from toolkit.runs.machine import machine
from toolkit.runs.preflight import model_kind
from toolkit.runs.rundir import RunDir

Command = Callable[[RunDir, Config], list[str]]
"""(run, its config) -> argument list of its worker."""

PROJECT_ROOT = Path(toolkit.__file__).resolve().parent.parent
WORKER = "toolkit.worker.train"


def worker_command(run: RunDir, config: Config) -> list[str]:
    """The worker itself, or accelerate's launcher around it; writes the launcher's file into the run.

    Raises RunError when this machine can't be looked at.
    """
    if not config.accelerate:
        return [sys.executable, "-m", WORKER, run.id]
    durable_write(run.accelerate_path, accelerate_yaml(config, machine(run.save_dir)))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(run.accelerate_path)]
    return [*launcher, "-m", WORKER, run.id]


def worker_environment(run: RunDir, config: Config, attempt: int) -> dict[str, str]:
    """This process's environment with what a worker needs: offline unless the model comes from the hub."""
    processes = process_count(config, None) if config.accelerate else 1
    libraries = library_environment(hub=model_kind(config) == "hub", processes=processes)
    return {**libraries, "FTK_SAVE_DIR": str(run.save_dir), "FTK_ATTEMPT": str(attempt)}


def library_environment(*, hub: bool, processes: int = 1) -> dict[str, str]:
    """This process's environment with what the heavy libraries read from it. hub: whether they may go there."""
    settings = {
        "HF_HUB_OFFLINE": "0" if hub else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "USE_HUB_KERNELS": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while the app needs a core made training crawl
        "GOMP_SPINCOUNT": "1000",  # a microsecond: sleeping at once, both wake on one core and are no faster than one
        "OMP_NUM_THREADS": str(max(1, training_cores() // processes)),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",  # of 1,024 it fills a third of a GB with what is not used again
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if "HF_HUB_OFFLINE" in os.environ:  # whoever said so means it
        settings["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
    return {**os.environ, **settings}


def training_cores() -> int:
    """Cores for training: one stays free for the app, except where that would be half of the machine."""
    cores = usable_cores()
    return cores - 1 if cores > 3 else cores


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, int(quota) // int(period))) if quota.isdigit() else cores


def detached(
    argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes], *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """A process that outlives this one: a session of its own, no input, all output in `log`. Raises OSError."""
    return subprocess.Popen(
        argv, cwd=PROJECT_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True, pass_fds=tuple(pass_fds),
    )  # fmt: skip


def reap(process: subprocess.Popen[bytes], name: str) -> None:
    """Whoever waits for a child ends it for good; a thread of that name does, however long it lives."""
    threading.Thread(target=process.wait, name=f"{name}-reaper", daemon=True).start()


def spawn(
    run: RunDir, argv: list[str], environment: dict[str, str], slot: int
) -> tuple[subprocess.Popen[bytes], Holder]:
    """Start the process in a session of its own; it keeps the slot's descriptor, and so the slot, for life.

    Returns the process and its description. Raises OSError.
    """
    with run.log_path.open("ab") as log:
        process = detached(argv, environment, log, pass_fds=(slot,))
    began = psutil.Process(process.pid).create_time()
    attempt = int(environment["FTK_ATTEMPT"])
    return process, Holder(process.pid, began, attempt, boot_id(), run.id)

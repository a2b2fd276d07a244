"""Starts a worker process: its argument list, its environment, its own session, its log file.

No user text is in the arguments, nothing goes through a shell or a pipe. Whether a run may start is `supervisor.py`'s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from toolkit.system.machine import training_cores
from toolkit.system.paths import APP_FILE, PROJECT_ROOT


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


def start_detached_process(
    argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes], *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """A process that outlives this one: a session of its own, no input, all output in `log`. Raises OSError."""
    return subprocess.Popen(
        argv, cwd=PROJECT_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True, pass_fds=tuple(pass_fds),
    )  # fmt: skip


def reap_in_background(process: subprocess.Popen[bytes], name: str) -> None:
    """Whoever waits for a child ends it for good; a thread of that name does, however long it lives."""
    threading.Thread(target=process.wait, name=f"{name}-reaper", daemon=True).start()


def app_command() -> list[str]:
    """Return the argument list that starts the app on this machine only, from any folder."""
    flags = ["--server.address", "127.0.0.1"]
    flags += ["--server.allowedHosts", "localhost", "--server.allowedHosts", "127.0.0.1"]
    return [sys.executable, "-m", "streamlit", "run", str(APP_FILE), *flags]

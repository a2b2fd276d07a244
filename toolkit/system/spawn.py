"""Starting processes that outlive this one: environment, session, log file.

Argument lists contain no text of a user, and no shell is involved.
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
    """Return this process's environment plus the settings of the training libraries.

    hub: the libraries may use the Hugging Face Hub. processes: how many workers share the cores.
    """
    settings = {
        "HF_HUB_OFFLINE": "0" if hub else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "USE_HUB_KERNELS": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take cores from the app and slow training down
        "GOMP_SPINCOUNT": "1000",  # about 1 µs: threads that sleep at once wake up on the same core
        "OMP_NUM_THREADS": str(max(1, training_cores() // processes)),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",  # the default, 1,024, takes 300 MB for entries that are not reused
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if "HF_HUB_OFFLINE" in os.environ:  # an explicit choice of the user
        settings["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
    return {**os.environ, **settings}


def start_detached_process(
    argv: Sequence[str], environment: Mapping[str, str], log: IO[bytes], *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one, in its own session, with all output in `log`. Raises OSError."""
    return subprocess.Popen(
        argv,
        cwd=PROJECT_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=tuple(pass_fds),
    )


def reap_in_background(process: subprocess.Popen[bytes], name: str) -> None:
    """Wait for a child process in a thread, so that it does not stay a zombie. name: begins the thread's name."""
    threading.Thread(target=process.wait, name=f"{name}-reaper", daemon=True).start()


def app_command() -> list[str]:
    """Return the argument list that starts the app on this machine only, from any folder."""
    flags = ["--server.address", "127.0.0.1"]
    flags += ["--server.allowedHosts", "localhost", "--server.allowedHosts", "127.0.0.1"]
    return [sys.executable, "-m", "streamlit", "run", str(APP_FILE), *flags]

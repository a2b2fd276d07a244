"""The spare worker of a supervisor: one process that has imported the libraries and waits to become a run's worker.

Starts it, hands it a run, replaces it, ends it. Whatever is wrong with it (not ready, dead, older than the code, a run
that needs another environment), the answer is None and the run starts the cold way. What the process does meanwhile is
`worker/spare.py`'s.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from toolkit.config import Config
from toolkit.runs.lock import Holder, boot_id
from toolkit.runs.machine import machine_if_known
from toolkit.runs.preflight import model_kind
from toolkit.runs.rundir import RunDir
from toolkit.runs.spawn import PROJECT_ROOT, worker_environment

READY, TAKEN = b"r", b"t"
WATCH_SECONDS = 20.0
"""A waiting spare looks at the machine's memory so often."""
SHORT_BYTES = 1_500_000_000
"""With less free memory a waiting spare leaves, and none is started with less than twice as much."""
FIRST_SECONDS = 4.0
"""After the supervisor's start: the app's first page comes first."""
AGAIN_SECONDS = 2.0
"""After a run, or after a spare that died."""
ANSWER_SECONDS = 3.0
SWITCH = "FTK_SPARE"
"""Environment variable; 0 switches the spare off."""
_LOG = logging.getLogger(__name__)


class Spare:
    """At most one spare process for one save_dir. All methods are called from the supervising thread."""

    def __init__(self, save_dir: Path) -> None:
        self._save_dir = save_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._ready = False
        self._stamp = 0
        self._not_before = time.monotonic() + FIRST_SECONDS

    def keep(self, busy: bool) -> None:
        """Have one while no run is going; called at every look."""
        if busy:
            self._not_before = time.monotonic() + AGAIN_SECONDS
        elif self._process is not None and self._process.poll() is not None:
            self.end()
        elif self._process is None and time.monotonic() >= self._not_before:
            self._start()

    def take(self, run: RunDir, config: Config, environment: dict[str, str], slot: int) -> tuple[
        subprocess.Popen[bytes], Holder
    ] | None:  # fmt: skip
        """Make the spare the worker of `run`: its process and description; None when it can't be that."""
        process, line = self._process, self._line
        if process is None or line is None or not self._usable(config):
            self.end()
            return None
        order = {"run": run.id, "log": str(run.log_path), "environment": environment}
        try:
            socket.send_fds(line, [json.dumps(order).encode()], [slot])
            if not _answers(line, TAKEN):
                raise OSError("it does not answer")
            began = psutil.Process(process.pid).create_time()
        except (OSError, psutil.NoSuchProcess) as error:
            _LOG.info("the spare worker can't take run %s: %s", run.id, error)
            self.end()
            return None
        line.close()
        self._process = self._line = None
        return process, Holder(process.pid, began, process.pid, int(environment["FTK_ATTEMPT"]), boot_id(), run.id)

    def end(self) -> None:
        """Give it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None
        self._not_before = time.monotonic() + AGAIN_SECONDS

    def _start(self) -> None:
        self._not_before = time.monotonic() + 60  # a spare that dies at once is not tried again and again
        if psutil.virtual_memory().available < 2 * SHORT_BYTES:
            return
        ours, theirs = socket.socketpair()
        general = worker_environment(RunDir(self._save_dir / "runs" / "spare"), Config(), 1)
        # asking whether there is a GPU must not start its driver: which one a run sees is decided later
        environment = {**general, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "toolkit.worker.spare", str(theirs.fileno())],
                cwd=PROJECT_ROOT, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )  # fmt: skip
        self._line, self._ready, self._stamp = ours, False, code_stamp()

    def _usable(self, config: Config) -> bool:
        """Ready, alive, of this code, and of an environment that fits: one process, offline, at most one GPU."""
        if config.accelerate or model_kind(config) == "hub" or code_stamp() != self._stamp:
            return False
        known = machine_if_known(self._save_dir)
        if known is not None and len(known.gpus) > 1:
            return False
        return self.is_ready() and self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether it has imported everything."""
        if self._line is not None and not self._ready:
            self._ready = _answers(self._line, READY, 0.0)
        return self._ready


def _answers(line: socket.socket, word: bytes, seconds: float = ANSWER_SECONDS) -> bool:
    return bool(select.select([line], [], [], seconds)[0]) and line.recv(1) == word


def spare_wanted() -> bool:
    """Whether nobody switched it off: half a GB of memory for a start that is seconds earlier."""
    return os.environ.get(SWITCH, "1") != "0"


def code_stamp() -> int:
    """Changes when any file of the toolkit does: a spare that imported older code is not used."""
    return max(path.stat().st_mtime_ns for path in (PROJECT_ROOT / "toolkit").rglob("*.py"))

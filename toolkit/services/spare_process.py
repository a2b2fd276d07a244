"""The standby worker of a supervisor: a fork server from which training workers and background workers are forked.

It is started, replaced when it has died or the code has changed, and ended here. It stays while a run trains, so that
the next run starts at once too. A run that is started during its imports waits for them. If anything is wrong with it
(hung, dead, out of date, or the run needs another environment), the run starts as a new process.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from toolkit.config import Config
from toolkit.runs.run_dir import RunDir
from toolkit.runs.worker_process import worker_environment
from toolkit.services.fork_client import (
    FORK_SERVER_MIN_FREE_BYTES,
    NO_IMPORTS,
    ForkedProcess,
    ForkServer,
    ImportProgress,
)
from toolkit.settings.model_source import model_kind
from toolkit.system.build_id import build_id
from toolkit.system.locks import LockHolder, boot_id
from toolkit.system.machine import Machine, free_memory_bytes, read_known_machine

START_DELAY_SECONDS = 1.0
"""After the supervisor has started: the app's first page, which is built at the same time, comes first."""
_PROBE_SECONDS = 60.0
RESTART_DELAY_SECONDS = 20.0
"""After its death, and after a run that started as a new process: that run's imports and first steps come first."""
BUILD_CHECK_SECONDS = 10.0
"""Between two checks whether the code has changed."""
IMPORT_NICENESS = 5
"""Niceness of imports during a training: they take a quarter of a core, and the next run waits for its end anyway."""
SPARE_VARIABLE = "FTK_SPARE"
"""Environment variable; "0" switches the standby worker off."""
logger = logging.getLogger(__name__)
_SPARES: dict[Path, SpareProcess] = {}


class SpareProcess:
    """Keeps at most one standby worker for one save_dir."""

    def __init__(self, save_dir: Path) -> None:
        self._save_dir = save_dir.absolute()
        self._guard = threading.RLock()
        self._server: ForkServer | None = None
        self._build_checked = 0.0
        self._maintained = self._busy = False
        self._not_before = time.monotonic() + START_DELAY_SECONDS
        _SPARES[self._save_dir] = self

    def maintain(self, *, busy: bool = False) -> None:
        """Start or replace the standby worker if needed. Call before every poll. busy: a run is in progress."""
        with self._guard:
            now = time.monotonic()
            self._maintained, self._busy = True, busy
            if self._server is None:
                if now >= self._not_before:
                    self._start()
            elif not self._server.is_alive:
                self.end()
            elif now - self._build_checked > BUILD_CHECK_SECONDS:
                self._build_checked = now
                if self._server.build != build_id():  # its forks would run the old code
                    self._server.retire()
                    self._server = None

    def run_should_wait(self, config: Config) -> bool:
        """Return whether a run with this config starts sooner if it waits for the imports in progress."""
        with self._guard:
            if not (self._maintained and self._fits(config) and self.is_coming()) or self._server is None:
                return False
            return not self._server.is_ready() and self._server.is_alive

    def is_coming(self) -> bool:
        """Return whether a standby worker is importing or ready. Start one that is due soon; end one that hangs."""
        with self._guard:
            now = time.monotonic()
            # only within the first delay: after a death the longer delay applies
            if self._server is None and now < self._not_before <= now + START_DELAY_SECONDS:
                self._start()
            if self._server is not None and self._server.is_stalled():
                logger.warning("The standby worker hangs during its imports. Ending it.")
                self.end()
            return self._server is not None and self._server.is_alive

    def progress(self) -> ImportProgress:
        """Return the progress of its imports; NO_IMPORTS when it is not importing."""
        server = self._server
        return NO_IMPORTS if server is None or server.ready else server.imports

    def fork_worker(
        self, run: RunDir, config: Config, environment: dict[str, str], slot: int
    ) -> tuple[ForkedProcess, LockHolder] | None:
        """Fork the worker of `run`; return the process and its description.

        slot: descriptor of the locked slot file, which the worker inherits. None when the run must start as a new
        process.
        """
        server = self.ready_server() if self._fits(config) else None
        if server is None:
            with self._guard:  # imports that continue would take a core from the run that starts now
                if self._server is not None and not self._server.ready:
                    self.end()
                self._not_before = max(self._not_before, time.monotonic() + RESTART_DELAY_SECONDS)
            return None
        try:
            process = server.fork("train", [run.id], environment, run.log_path, slot)
        except OSError as error:
            logger.info("The standby worker can't start run %s: %s", run.id, error)
            self.end()
            return None
        if process.pid == server.process.pid:  # it cannot fork on this system and became the worker itself
            with self._guard:
                self._server = None
                self._not_before = time.monotonic() + RESTART_DELAY_SECONDS
        return process, LockHolder(process.pid, process.began, int(environment["FTK_ATTEMPT"]), boot_id(), run.id)

    def ready_server(self) -> ForkServer | None:
        """Return the fork server if it has imported the current code; else None."""
        with self._guard:
            server = self._server
            return server if server is not None and server.is_ready() and server.build == build_id() else None

    def end(self) -> None:
        """End the standby worker. Its forks continue."""
        with self._guard:
            if self._server is not None:
                self._server.kill()
            self._server = None
            self._not_before = time.monotonic() + RESTART_DELAY_SECONDS

    def _start(self) -> None:
        self._not_before = time.monotonic() + 60  # one that dies at once is not restarted again and again
        if free_memory_bytes() < 2 * FORK_SERVER_MIN_FREE_BYTES:
            return
        general = worker_environment(RunDir(self._save_dir / "runs" / "spare"), Config(), 1)
        # NVML answers whether there is a GPU without initializing CUDA, which could not be forked afterward
        self._server = ForkServer({**general, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}, IMPORT_NICENESS * self._busy)
        self._build_checked = time.monotonic()

    def _fits(self, config: Config) -> bool:
        return can_run_as_fork(config, read_known_machine(self._save_dir))


def can_run_as_fork(config: Config, machine: Machine | None) -> bool:
    """Return whether a run may be a fork of the standby worker.

    It must train in one process and offline, as the libraries were imported, and not need to choose between GPUs.
    """
    if config.accelerate or model_kind(config) == "hub":
        return False
    return machine is None or len(machine.gpus) <= 1


def wait_for_fork_server(save_dir: Path, seconds: float) -> ForkServer | None:
    """Return this program's fork server for `save_dir`, waiting at most `seconds` for its imports.

    None when there is none, when it is not ready in time, or when it can't fork.
    """
    spare, deadline = _SPARES.get(save_dir.absolute()), time.monotonic() + seconds
    while spare is not None and spare.is_coming() and time.monotonic() < deadline:
        server = spare.ready_server()
        if server is not None:
            return server if server.forks else None
        time.sleep(0.1)
    return None


def probe_in_fork(save_dir: Path) -> bytes:
    """Return the output of `worker/probe.py` in a fork, which saves a second import of torch; b"" if that fails."""
    server = wait_for_fork_server(save_dir, _PROBE_SECONDS)
    if server is None:
        return b""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("rb") as nothing:
        log = Path(folder) / "probe.log"
        try:
            process = server.fork("probe", [], dict(os.environ), log, nothing.fileno())
            ended = process.wait(_PROBE_SECONDS) == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.info("The standby worker can't probe this machine: %s", error)
            return b""
        return log.read_bytes() if ended else b""


def read_import_progress(save_dir: Path) -> ImportProgress:
    """Return the progress of the imports that a run waits for; NO_IMPORTS for none."""
    spare = _SPARES.get(save_dir.absolute())
    return spare.progress() if spare is not None else NO_IMPORTS


def is_spare_enabled() -> bool:
    """Return whether the standby worker is on. It occupies half a GB of memory and saves seconds at every start."""
    return os.environ.get(SPARE_VARIABLE, "1") != "0"

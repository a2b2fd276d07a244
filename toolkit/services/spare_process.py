"""The spare of a supervisor: one process that has imported the libraries, of which runs and warm workers are forks.

Starts it, replaces it when it is dead or older than the code, gives it back. It is one process instead of two (one that
answers questions, one that waits for a run), and it stays while a run goes on, so that the next one starts at once too.
A run that comes while it still imports waits for it. Whatever is wrong with it (hung, dead, stale, a run that needs
another environment), the run starts the cold way. What the process does meanwhile is `worker/spare.py`'s.
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
from toolkit.services.fork_client import FORK_SERVER_MIN_FREE_BYTES, ForkedProcess, ForkServer
from toolkit.settings.model_source import model_kind
from toolkit.system.build_id import build_id
from toolkit.system.locks import LockHolder, boot_id
from toolkit.system.machine import Machine, free_memory_bytes, read_known_machine

START_DELAY_SECONDS = 1.0
"""After the supervisor's start, which begins the app's first page: that one comes first."""
_PROBE_SECONDS = 60.0
RESTART_DELAY_SECONDS = 20.0
"""After one that died, and after a run that started cold: its own imports and first steps come first."""
BUILD_CHECK_SECONDS = 10.0
"""Between two looks at whether the code has changed."""
IMPORT_NICENESS = 5
"""Of imports beside a training: they take a quarter of a core from it, and the next run waits for its end anyway."""
SPARE_VARIABLE = "FTK_SPARE"
"""Environment variable; 0 switches the spare off."""
logger = logging.getLogger(__name__)
_SPARES: dict[Path, SpareProcess] = {}


class SpareProcess:
    """At most one spare process for one save_dir."""

    def __init__(self, save_dir: Path) -> None:
        self._save_dir = save_dir.absolute()
        self._guard = threading.RLock()
        self._server: ForkServer | None = None
        self._build_checked = 0.0
        self._maintained = self._busy = False
        self._not_before = time.monotonic() + START_DELAY_SECONDS
        _SPARES[self._save_dir] = self

    def maintain(self, *, busy: bool = False) -> None:
        """Have a fresh one; called before every look of the supervisor that keeps one. busy: a run is going."""
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
                if self._server.build != build_id():
                    self._server.retire()
                    self._server = None

    def run_should_wait(self, config: Config) -> bool:
        """Whether a run of `config` does best to wait for it: it imports, or begins to now, and gets on with it."""
        with self._guard:
            if not (self._maintained and self._fits(config) and self.is_coming()) or self._server is None:
                return False
            return not self._server.is_ready() and self._server.is_alive

    def is_coming(self) -> bool:
        """Whether there is one that imports or is ready. Starts it if it was still to be; ends it when it hangs."""
        with self._guard:
            now = time.monotonic()
            if self._server is None and now < self._not_before <= now + START_DELAY_SECONDS:
                self._start()
            if self._server is not None and self._server.is_stalled():
                logger.warning("the spare hangs while it imports")
                self.end()
            return self._server is not None and self._server.is_alive

    def progress(self) -> tuple[int, int]:
        """Steps that its imports have done, and of how many; (0, 0) when none is under way."""
        server = self._server
        return (0, 0) if server is None or server.ready else (server.done, server.steps)

    def fork_worker(self, run: RunDir, config: Config, environment: dict[str, str], slot: int) -> tuple[
        ForkedProcess, LockHolder
    ] | None:  # fmt: skip
        """Fork the worker of `run`: the process and its description; None when the run must start cold."""
        server = self.ready_server() if self._fits(config) else None
        if server is None:
            with self._guard:  # an import that goes on would take a core from the run that starts now
                if self._server is not None and not self._server.ready:
                    self.end()
                self._not_before = max(self._not_before, time.monotonic() + RESTART_DELAY_SECONDS)
            return None
        try:
            process = server.fork("train", [run.id], environment, run.log_path, slot)
        except OSError as error:
            logger.info("the spare can't take run %s: %s", run.id, error)
            self.end()
            return None
        if process.pid == server.process.pid:  # it has become the worker itself
            with self._guard:
                self._server = None
                self._not_before = time.monotonic() + RESTART_DELAY_SECONDS
        holder = LockHolder(
            process.pid, process.began, int(environment["FTK_ATTEMPT"]), boot_id(), run.id
        )  # fmt: skip
        return process, holder

    def ready_server(self) -> ForkServer | None:
        """The process itself, when it has imported what the code is now."""
        with self._guard:
            server = self._server
            return server if server is not None and server.is_ready() and server.build == build_id() else None

    def end(self) -> None:
        """Give it back. Runs that are forks of it go on."""
        with self._guard:
            if self._server is not None:
                self._server.kill()
            self._server = None
            self._not_before = time.monotonic() + RESTART_DELAY_SECONDS

    def _start(self) -> None:
        self._not_before = time.monotonic() + 60  # one that dies at once is not tried again and again
        if free_memory_bytes() < 2 * FORK_SERVER_MIN_FREE_BYTES:
            return
        general = worker_environment(RunDir(self._save_dir / "runs" / "spare"), Config(), 1)
        # asking whether there is a GPU must not start its driver: which one a run sees is decided later
        self._server = ForkServer({**general, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}, IMPORT_NICENESS * self._busy)
        self._build_checked = time.monotonic()

    def _fits(self, config: Config) -> bool:
        return can_run_as_fork(config, read_known_machine(self._save_dir))


def can_run_as_fork(config: Config, machine: Machine | None) -> bool:
    """Whether a run may be a fork: one process, offline as the imports were, at most one GPU to choose from."""
    if config.accelerate or model_kind(config) == "hub":
        return False
    return machine is None or len(machine.gpus) <= 1


def wait_for_fork_server(save_dir: Path, seconds: float) -> ForkServer | None:
    """The fork server that this program keeps for `save_dir`, waited for while it imports; None where there is none,
    or it can't fork."""
    kept, deadline = _SPARES.get(save_dir.absolute()), time.monotonic() + seconds
    while kept is not None and kept.is_coming() and time.monotonic() < deadline:
        server = kept.ready_server()
        if server is not None:
            return server if server.forks else None
        time.sleep(0.1)
    return None


def probe_in_fork(save_dir: Path) -> bytes:
    """What `worker/probe.py` says in a fork, for `machine.py`: torch is not imported twice. b"" where that can't be."""
    server = wait_for_fork_server(save_dir, _PROBE_SECONDS)
    if server is None:
        return b""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("rb") as nothing:
        log = Path(folder) / "probe.log"
        try:
            process = server.fork("probe", [], dict(os.environ), log, nothing.fileno())
            ended = process.wait(_PROBE_SECONDS) == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.info("the spare can't look at this machine: %s", error)
            return b""
        return log.read_bytes() if ended else b""


def read_import_progress(save_dir: Path) -> tuple[int, int]:
    """How far the imports are that a run of this program waits for: (steps done, of how many); (0, 0) for none."""
    kept = _SPARES.get(save_dir.absolute())
    return kept.progress() if kept is not None else (0, 0)


def is_spare_enabled() -> bool:
    """Whether nobody switched it off: half a GB of memory for starts that are seconds earlier."""
    return os.environ.get(SPARE_VARIABLE, "1") != "0"

"""Launchers: how the worker of a run is started, watched and ended.

`LocalLauncher` starts a new process for each run. `ForkLauncher` forks the worker from the standby worker, which has
already imported the training libraries, and starts a new process where a fork is not possible. `ClusterLauncher` starts
a process that stands for the one that trains on a node, where the folder's runs train on a cluster.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from toolkit.cluster.setting import CLUSTER_MODULE, read_cluster
from toolkit.config import Config
from toolkit.lifecycle.slots import HeldSlots
from toolkit.runs.run_dir import RunDir
from toolkit.runs.worker_process import CommandBuilder, spawn_training_worker, worker_command, worker_environment
from toolkit.services.fork_client import ForkedProcess
from toolkit.services.spare_process import SpareProcess, is_spare_enabled, probe_in_fork
from toolkit.system.locks import LockHolder, end_holder_processes


class WorkerHandle(Protocol):
    """A worker that a launcher started. holder: the description of its process, for lock files."""

    @property
    def holder(self) -> LockHolder: ...

    def poll(self) -> int | None:
        """Return the exit code as `subprocess` gives it, or None while the worker runs.

        LOST_EXIT_CODE stands for an exit code that is unknown because the fork server died first.
        """

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until the worker has ended; return False when it still runs after the timeout."""


class Launcher(Protocol):
    """Starts workers for the runs of one save_dir. fast_probe: a way to examine the machine without new imports."""

    @property
    def fast_probe(self) -> Callable[[], bytes] | None: ...

    def maintain(self, *, busy: bool) -> None:
        """Keep what speeds up the next start ready; called before every poll. busy: a run is in progress."""

    def should_wait(self, config: Config) -> bool:
        """Return whether a run with this config starts sooner if it waits a moment."""

    def start(self, run: RunDir, config: Config, attempt: int, slots: HeldSlots) -> WorkerHandle:
        """Start the worker of an attempt. slots: the locked slot files, whose descriptors the worker inherits.

        Raises OSError, or ToolkitError for settings that cannot be used.
        """

    def end(self, holder: LockHolder) -> bool:
        """End a worker and its child processes; return whether all of them are gone."""

    def close(self) -> None:
        """Release what `maintain` keeps ready. Workers continue."""


@dataclass(frozen=True)
class LocalWorker:
    """A worker process on this machine: a child of this process, or a fork of the standby worker."""

    process: subprocess.Popen[bytes] | ForkedProcess
    holder: LockHolder

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self, timeout_seconds: float) -> bool:
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class LocalLauncher:
    """Starts each worker as a new process. command: builds its argument list."""

    fast_probe: Callable[[], bytes] | None = None

    def __init__(self, command: CommandBuilder = worker_command) -> None:
        self._command = command

    def maintain(self, *, busy: bool) -> None:
        """Do nothing: a new process needs no preparation."""

    def should_wait(self, config: Config) -> bool:
        return False

    def start(self, run: RunDir, config: Config, attempt: int, slots: HeldSlots) -> LocalWorker:
        environment = worker_environment(run, config, attempt, slots.share)
        return LocalWorker(*spawn_training_worker(run, self._command(run, config), environment, slots.handles))

    def end(self, holder: LockHolder) -> bool:
        return end_holder_processes(holder)

    def close(self) -> None:
        """Do nothing: nothing is kept ready."""


class ForkLauncher:
    """Forks each worker from the standby worker of `save_dir`; starts a new process where that is not possible."""

    def __init__(self, save_dir: Path) -> None:
        self.spare = SpareProcess(save_dir)
        self._save_dir = save_dir
        self._local = LocalLauncher()

    @property
    def fast_probe(self) -> Callable[[], bytes] | None:
        return lambda: probe_in_fork(self._save_dir)

    def maintain(self, *, busy: bool) -> None:
        # also while a run trains: the next run then starts at once too
        self.spare.maintain(busy=busy)

    def should_wait(self, config: Config) -> bool:
        return self.spare.run_should_wait(config)

    def start(self, run: RunDir, config: Config, attempt: int, slots: HeldSlots) -> LocalWorker:
        # None when the standby worker is not ready, has died, or does not fit this run
        environment = worker_environment(run, config, attempt, slots.share)
        # a run with several slots trains in several processes, which accelerate starts
        forked = self.spare.fork_worker(run, config, environment, slots.handles[0]) if len(slots.handles) == 1 else None
        return LocalWorker(*forked) if forked else self._local.start(run, config, attempt, slots)

    def end(self, holder: LockHolder) -> bool:
        return self._local.end(holder)

    def close(self) -> None:
        self.spare.end()


class ClusterLauncher:
    """Starts each worker where the setting of `save_dir` says at that moment: on its cluster, or through `local`."""

    def __init__(self, save_dir: Path, local: Launcher) -> None:
        self._save_dir, self.local = save_dir, local
        self.proxies = LocalLauncher(lambda run, config: [sys.executable, "-m", CLUSTER_MODULE, run.id])

    @property
    def fast_probe(self) -> Callable[[], bytes] | None:
        return self.local.fast_probe

    def maintain(self, *, busy: bool) -> None:
        self.local.maintain(busy=busy)

    def should_wait(self, config: Config) -> bool:
        return read_cluster(self._save_dir) is None and self.local.should_wait(config)

    def start(self, run: RunDir, config: Config, attempt: int, slots: HeldSlots) -> WorkerHandle:
        on_cluster = read_cluster(self._save_dir) is not None
        return (self.proxies if on_cluster else self.local).start(run, config, attempt, slots)

    def end(self, holder: LockHolder) -> bool:
        return self.local.end(holder)

    def close(self) -> None:
        self.local.close()


def default_launcher(save_dir: Path) -> Launcher:
    """Return the launcher that the app and the command line use: with a standby worker unless it is switched off."""
    return ClusterLauncher(save_dir, ForkLauncher(save_dir) if is_spare_enabled() else LocalLauncher())

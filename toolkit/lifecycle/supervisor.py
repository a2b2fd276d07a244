"""The supervising thread: takes the first queued run when nothing is going, starts its worker, explains its end.

Replaceable at any moment: everything it must know lies in the run directories, so any number of app processes and
command lines may supervise one save_dir. A claim file starts a run once, the slot's lock one run at a time; the kernel
drops both the slot and a run's lock on any death. Its one side effect beside the runs: a process-wide table of started
supervisors, so that starting one again for the same save_dir does nothing.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.lifecycle.child_watch import ChildWorker
from toolkit.lifecycle.claims import close_dead_attempt, close_unstarted_attempt, read_claim, take_claim
from toolkit.lifecycle.queue import sort_queued_runs
from toolkit.runs.checkpoints import has_checkpoint_room
from toolkit.runs.end_reasons import Explanation, explain_exception
from toolkit.runs.run_dir import RunDir, list_runs, read_run_config
from toolkit.runs.status import RunStatus, ended_run_fingerprint, read_run_status
from toolkit.runs.worker_process import CommandBuilder, spawn_training_worker, worker_command, worker_environment
from toolkit.services.fork_client import LOST_EXIT_CODE
from toolkit.services.spare_process import SpareProcess, is_spare_enabled, probe_in_fork
from toolkit.system.durable import remove_leftover_dirs
from toolkit.system.locks import (
    LockHolder,
    boot_id,
    end_holder_processes,
    is_lock_held,
    read_lock_holder,
    try_lock,
    write_lock_holder,
)
from toolkit.system.machine import probe_machine_in_background

SUPERVISOR_POLL_SECONDS = 0.3
SPARE_POLL_SECONDS = 0.05  # between two looks while a run waits for the spare's imports
FOREIGN_GRACE_SECONDS = (
    5.0  # seconds that a dead worker's own supervisor has to explain it: it alone knows the exit code
)
WORKER_LINGER_SECONDS = 30.0  # after its last word a worker may take so long to leave
FAILED_START_PAUSE_SECONDS = 60.0  # a run that can't even be claimed (disk full) stands back so long

logger = logging.getLogger(__name__)
_SUPERVISORS: dict[Path, Supervisor] = {}
_START_LOCK = threading.Lock()


class Supervisor:
    """Supervises the runs of one save_dir. `command` builds the worker's argument list; tests put a fake there."""

    def __init__(
        self, save_dir: Path, *, command: CommandBuilder = worker_command, poll_seconds: float = SUPERVISOR_POLL_SECONDS
    ) -> None:
        self.save_dir = save_dir.absolute()
        self._command, self._poll = command, poll_seconds
        self._spare = SpareProcess(self.save_dir) if command is worker_command and is_spare_enabled() else None
        self._children: dict[str, ChildWorker] = {}
        self._over: dict[str, tuple[int, ...]] = {}
        self._dead_since: dict[str, float] = {}
        self._put_off: dict[str, float] = {}
        self._awaiting = False
        self._leave, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Supervise in a daemon thread; does nothing when this process already supervises this save_dir."""
        with _START_LOCK:
            known = _SUPERVISORS.get(self.save_dir)
            if known is not None and known.alive:
                return
            self._leave.clear()
            self._thread = threading.Thread(target=self._work, name=f"supervisor {self.save_dir}", daemon=True)
            self._thread.start()
            _SUPERVISORS[self.save_dir] = self
        probe_machine_in_background(self.save_dir, (lambda: probe_in_fork(self.save_dir)) if self._spare else None)

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End the thread. Workers go on: the next supervisor finds them by their locks."""
        self._leave.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for child in self._children.values():
            child.release_slot()

    def check_now(self) -> None:
        """Somebody has queued a run: don't wait for the next look."""
        self._wake.set()

    def run_to_end(self, run: RunDir, on_status: Callable[[RunStatus], None]) -> RunStatus:
        """Supervise in this thread until `run` is over, telling `on_status` at every look. Runs before it go first."""
        while True:
            self.tick()
            status = read_run_status(run)
            on_status(status)
            if status.explained:
                self._wait_for_child_exit(run)
                return status
            self._leave.wait(self._poll)

    def tick(self) -> None:
        """One look: children that ended, runs that others left dead, the next run. Never raises an Exception."""
        self._call_safely(None, self._check_all_runs)

    def _check_all_runs(self) -> None:
        now = time.monotonic()
        self._awaiting = False
        for child in [one for one in self._children.values() if self._put_off.get(one.run.id, 0.0) <= now]:
            self._call_safely(child.run, self._watch, child)
        queue: list[tuple[RunDir, bool]] = []  # with whether it can start: what lives or just died may go on first
        for run in self._open_runs():
            self._call_safely(run, self._check_open_run, run, queue)
        ready = dict(queue)
        for first in sort_queued_runs(list(ready))[:1]:
            if ready[first]:
                self._call_safely(first, self._start, first)

    def _work(self) -> None:
        self._call_safely(None, remove_leftover_dirs, self.save_dir / "runs")
        while not self._leave.is_set():
            if self._wake.wait(SPARE_POLL_SECONDS if self._awaiting else self._poll):
                self._wake.clear()
            if self._spare:
                self._call_safely(None, self._keep_spare, self._spare)
            self.tick()
        if self._spare:
            self._spare.end()

    def _keep_spare(self, spare: SpareProcess) -> None:
        spare.keep(busy=bool(self._children))

    def _call_safely(self, run: RunDir | None, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception:
            logger.exception("supervising %s", run.id if run else self.save_dir)
            if run is not None:
                self._put_off[run.id] = time.monotonic() + FAILED_START_PAUSE_SECONDS

    def _open_runs(self) -> list[RunDir]:
        """Runs that may still change, oldest first. One that was over is among them once somebody resumes it."""
        now = time.monotonic()
        runs = [run for run in reversed(list_runs(self.save_dir)) if self._put_off.get(run.id, 0.0) <= now]
        return [run for run in runs if run.id not in self._over or self._over[run.id] != ended_run_fingerprint(run)]

    def _watch(self, child: ChildWorker) -> None:
        returncode = child.process.poll()
        if returncode is not None or is_lock_held(child.run.lock_path):
            child.release_slot()
        if returncode is None:
            child.record_oom_kills()
            return
        if not child.run.path.exists():  # deleted by somebody else as soon as it was over
            del self._children[child.run.id]
            return
        holder = read_lock_holder(child.run.lock_path)
        # a launcher may die before its ranks do: the lock then says that the run goes on
        told = None if returncode == LOST_EXIT_CODE else returncode
        if close_dead_attempt(child.run, told, child.oom_before) or (holder is not None and holder.alive()):
            del self._children[child.run.id]

    def _check_open_run(self, run: RunDir, queue: list[tuple[RunDir, bool]]) -> None:
        now = ended_run_fingerprint(run)
        status = read_run_status(run)
        if status.explained:
            self._over[run.id] = now
            self._dead_since.pop(run.id, None)
        elif status.state == "queued" and (
            status.reason != "disk_full" or has_checkpoint_room(run, int(status.saved.get("bytes") or 0))
        ):
            queue.append((run, True))
        elif status.living:
            queue.append((run, False))
        elif status.state == "interrupted":
            queue.append((run, False))
            if run.id not in self._children:
                self._close_foreign(run, status.coming)

    def _close_foreign(self, run: RunDir, attempt: int) -> None:
        """Explain a run that died while another process, perhaps gone too, was to watch it."""
        claim = read_claim(run, max(1, attempt))
        since = self._dead_since.setdefault(run.id, time.monotonic())
        if claim is None or not claim.supervisor.alive() or time.monotonic() - since > FOREIGN_GRACE_SECONDS:
            close_dead_attempt(run, None)
            self._dead_since.pop(run.id, None)

    def _start(self, run: RunDir) -> None:
        self._awaiting = self._waits_for_spare(run)
        if self._awaiting:
            return
        attempt = read_run_status(run).coming
        slot = try_lock(run.slot_path)
        if slot is None:
            self._end_lingering(run.slot_path)
            return
        try:
            if any(is_lock_held(other.lock_path) for other in self._open_runs()):
                return
            write_lock_holder(slot, LockHolder(0, 0.0, attempt, boot_id(), run.id))
            if take_claim(run, attempt):
                self._launch(run, slot, attempt)
        finally:
            child = self._children.get(run.id)
            if child is None or child.slot != slot:
                os.close(slot)

    def _waits_for_spare(self, run: RunDir) -> bool:
        try:
            return self._spare is not None and self._spare.run_should_wait(read_run_config(run))
        except ToolkitError:
            return False  # its launch says what is wrong with the settings

    def _launch(self, run: RunDir, slot: int, attempt: int) -> None:
        try:
            config = read_run_config(run)
            environment = worker_environment(run, config, attempt)
            taken = self._spare.take(run, config, environment, slot) if self._spare else None
            process, holder = taken or spawn_training_worker(run, self._command(run, config), environment, slot)
        except ToolkitError as error:
            close_unstarted_attempt(run, Explanation("bad_settings", error.message, error.hint))
        except Exception as error:
            logger.exception("starting %s", run.id)
            close_unstarted_attempt(run, explain_exception(type(error).__name__, str(error)))
        else:
            self._children[run.id] = ChildWorker(run, process, slot)
            write_lock_holder(slot, holder)

    def _end_lingering(self, slot_path: Path) -> None:
        """End a worker that has said its last word and does not leave: it would hold the queue for ever."""
        holder = read_lock_holder(slot_path)
        if holder is None or not holder.alive():
            return
        run = RunDir(slot_path.parent / holder.run)
        if read_run_status(run).explained and time.time() - run.events_path.stat().st_mtime > WORKER_LINGER_SECONDS:
            logger.warning("run %s is over and its process %d is still there: ending it", run.id, holder.pid)
            end_holder_processes(holder)

    def _wait_for_child_exit(self, run: RunDir) -> None:
        child = self._children.get(run.id)
        if child is None:
            return
        try:
            child.process.wait(WORKER_LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("run %s is over and its process %d is still there", run.id, child.process.pid)
        self.tick()

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
from toolkit.lifecycle.child_watch import Started
from toolkit.lifecycle.claims import close_dead, close_unstarted, read_claim, take_claim
from toolkit.lifecycle.queue import in_order
from toolkit.runs.checkpoints import has_room
from toolkit.runs.end_reasons import Explanation, explain_exception
from toolkit.runs.run_dir import RunDir, list_runs, read_config
from toolkit.runs.status import RunStatus, looks, read_status
from toolkit.runs.worker_process import Command, spawn, worker_command, worker_environment
from toolkit.services.fork_client import LOST
from toolkit.services.spare_process import Spare, forked_probe, spare_wanted
from toolkit.system.durable import sweep_aside
from toolkit.system.locks import Holder, boot_id, end_processes, is_held, read_holder, try_lock, write_body
from toolkit.system.machine import probe_in_background

POLL_SECONDS = 0.3
AWAITING_SECONDS = 0.05  # between two looks while a run waits for the spare's imports
FOREIGN_GRACE = 5.0  # seconds that a dead worker's own supervisor has to explain it: it alone knows the exit code
LINGER_SECONDS = 30.0  # after its last word a worker may take so long to leave
PUT_OFF_SECONDS = 60.0  # a run that can't even be claimed (disk full) stands back so long

_LOG = logging.getLogger(__name__)
_STARTED: dict[Path, Supervisor] = {}
_STARTING = threading.Lock()


class Supervisor:
    """Supervises the runs of one save_dir. `command` builds the worker's argument list; tests put a fake there."""

    def __init__(
        self, save_dir: Path, *, command: Command = worker_command, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self.save_dir = save_dir.absolute()
        self._command, self._poll = command, poll_seconds
        self._spare = Spare(self.save_dir) if command is worker_command and spare_wanted() else None
        self._children: dict[str, Started] = {}
        self._over: dict[str, tuple[int, ...]] = {}
        self._dead_since: dict[str, float] = {}
        self._put_off: dict[str, float] = {}
        self._awaiting = False
        self._leave, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Supervise in a daemon thread; does nothing when this process already supervises this save_dir."""
        with _STARTING:
            known = _STARTED.get(self.save_dir)
            if known is not None and known.alive:
                return
            self._leave.clear()
            self._thread = threading.Thread(target=self._work, name=f"supervisor {self.save_dir}", daemon=True)
            self._thread.start()
            _STARTED[self.save_dir] = self
        probe_in_background(self.save_dir, (lambda: forked_probe(self.save_dir)) if self._spare else None)

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

    def look_now(self) -> None:
        """Somebody has queued a run: don't wait for the next look."""
        self._wake.set()

    def run_to_end(self, run: RunDir, on_status: Callable[[RunStatus], None]) -> RunStatus:
        """Supervise in this thread until `run` is over, telling `on_status` at every look. Runs before it go first."""
        while True:
            self.tick()
            status = read_status(run)
            on_status(status)
            if status.explained:
                self._see_off(run)
                return status
            self._leave.wait(self._poll)

    def tick(self) -> None:
        """One look: children that ended, runs that others left dead, the next run. Never raises an Exception."""
        self._guarded(None, self._look_around)

    def _look_around(self) -> None:
        now = time.monotonic()
        self._awaiting = False
        for child in [one for one in self._children.values() if self._put_off.get(one.run.id, 0.0) <= now]:
            self._guarded(child.run, self._watch, child)
        queue: list[tuple[RunDir, bool]] = []  # with whether it can start: what lives or just died may go on first
        for run in self._open_runs():
            self._guarded(run, self._look_at, run, queue)
        ready = dict(queue)
        for first in in_order(list(ready))[:1]:
            if ready[first]:
                self._guarded(first, self._start, first)

    def _work(self) -> None:
        self._guarded(None, sweep_aside, self.save_dir / "runs")
        while not self._leave.is_set():
            if self._wake.wait(AWAITING_SECONDS if self._awaiting else self._poll):
                self._wake.clear()
            if self._spare:
                self._guarded(None, self._keep_spare, self._spare)
            self.tick()
        if self._spare:
            self._spare.end()

    def _keep_spare(self, spare: Spare) -> None:
        spare.keep(busy=bool(self._children))

    def _guarded(self, run: RunDir | None, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception:  # noqa: BLE001 - one run's trouble must not end the supervision of the others
            _LOG.exception("supervising %s", run.id if run else self.save_dir)
            if run is not None:
                self._put_off[run.id] = time.monotonic() + PUT_OFF_SECONDS

    def _open_runs(self) -> list[RunDir]:
        """Runs that may still change, oldest first. One that was over is among them once somebody resumes it."""
        now = time.monotonic()
        runs = [run for run in reversed(list_runs(self.save_dir)) if self._put_off.get(run.id, 0.0) <= now]
        return [run for run in runs if run.id not in self._over or self._over[run.id] != looks(run)]

    def _watch(self, child: Started) -> None:
        returncode = child.process.poll()
        if returncode is not None or is_held(child.run.lock_path):
            child.release_slot()
        if returncode is None:
            child.look_at_memory()
            return
        if not child.run.path.exists():  # deleted by somebody else as soon as it was over
            del self._children[child.run.id]
            return
        holder = read_holder(child.run.lock_path)
        # a launcher may die before its ranks do: the lock then says that the run goes on
        told = None if returncode == LOST else returncode
        if close_dead(child.run, told, child.oom_before) or (holder is not None and holder.alive()):
            del self._children[child.run.id]

    def _look_at(self, run: RunDir, queue: list[tuple[RunDir, bool]]) -> None:
        now = looks(run)
        status = read_status(run)
        if status.explained:
            self._over[run.id] = now
            self._dead_since.pop(run.id, None)
        elif status.state == "queued" and (
            status.reason != "disk_full" or has_room(run, int(status.saved.get("bytes") or 0))
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
        if claim is None or not claim.supervisor.alive() or time.monotonic() - since > FOREIGN_GRACE:
            close_dead(run, None)
            self._dead_since.pop(run.id, None)

    def _start(self, run: RunDir) -> None:
        self._awaiting = self._waits_for_spare(run)
        if self._awaiting:
            return
        attempt = read_status(run).coming
        slot = try_lock(run.slot_path)
        if slot is None:
            self._end_lingering(run.slot_path)
            return
        try:
            if any(is_held(other.lock_path) for other in self._open_runs()):
                return
            write_body(slot, Holder(0, 0.0, attempt, boot_id(), run.id))
            if take_claim(run, attempt):
                self._launch(run, slot, attempt)
        finally:
            child = self._children.get(run.id)
            if child is None or child.slot != slot:
                os.close(slot)

    def _waits_for_spare(self, run: RunDir) -> bool:
        try:
            return self._spare is not None and self._spare.comes(read_config(run))
        except ToolkitError:
            return False  # its launch says what is wrong with the settings

    def _launch(self, run: RunDir, slot: int, attempt: int) -> None:
        try:
            config = read_config(run)
            environment = worker_environment(run, config, attempt)
            taken = self._spare.take(run, config, environment, slot) if self._spare else None
            process, holder = taken or spawn(run, self._command(run, config), environment, slot)
        except ToolkitError as error:
            close_unstarted(run, Explanation("bad_settings", error.message, error.hint))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes this run's last event
            _LOG.exception("starting %s", run.id)
            close_unstarted(run, explain_exception(type(error).__name__, str(error)))
        else:
            self._children[run.id] = Started(run, process, slot)
            write_body(slot, holder)

    def _end_lingering(self, slot_path: Path) -> None:
        """End a worker that has said its last word and does not leave: it would hold the queue for ever."""
        holder = read_holder(slot_path)
        if holder is None or not holder.alive():
            return
        run = RunDir(slot_path.parent / holder.run)
        if read_status(run).explained and time.time() - run.events_path.stat().st_mtime > LINGER_SECONDS:
            _LOG.warning("run %s is over and its process %d is still there: ending it", run.id, holder.pid)
            end_processes(holder)

    def _see_off(self, run: RunDir) -> None:
        child = self._children.get(run.id)
        if child is None:
            return
        try:
            child.process.wait(LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            _LOG.warning("run %s is over and its process %d is still there", run.id, child.process.pid)
        self.tick()

"""The supervisor: it starts queued runs, one for each slot, and records why each worker ended.

All its knowledge lies in the run directories, so any number of app processes and command lines may supervise one
save_dir, and each may end at any moment. A claim file starts each attempt once, the lock on a slot file allows one run
in each slot; the kernel releases that lock and a run's own lock when their holder dies. A table of the supervisors of
this process makes starting a second one for the same save_dir do nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.lifecycle.child_watch import ChildWorker
from toolkit.lifecycle.claims import close_dead_attempt, close_unstarted_attempt, read_claim, take_claim
from toolkit.lifecycle.launcher import Launcher, default_launcher
from toolkit.lifecycle.queue import sort_queued_runs
from toolkit.lifecycle.slot_memory import find_memory_shortage
from toolkit.lifecycle.slots import (
    HeldSlots,
    SlotTable,
    hold_slot_table,
    list_slot_holders,
    outlived_its_slot,
    read_slot_table,
)
from toolkit.runs.checkpoints import has_checkpoint_room
from toolkit.runs.end_reasons import Explanation, explain_exception
from toolkit.runs.run_dir import RunDir, ended_run_fingerprint, is_run_approved, list_runs, read_run_config
from toolkit.runs.slots import describe_share, list_slot_paths
from toolkit.runs.status import RunStatus, has_last_event, read_run_status
from toolkit.services.fork_client import LOST_EXIT_CODE
from toolkit.system.durable import remove_leftover_dirs
from toolkit.system.locks import LockHolder, boot_id, is_lock_held, read_lock_holder
from toolkit.system.machine import probe_machine_in_background

SUPERVISOR_POLL_SECONDS = 0.3
SPARE_POLL_SECONDS = 0.05
"""Seconds between two polls while a run waits for the standby worker: its imports end at any moment."""
FOREIGN_GRACE_SECONDS = 5.0
"""Time for a dead worker's own supervisor to explain its end: no other process knows the exit code."""
WORKER_LINGER_SECONDS = 30.0
"""Time that a worker may take to exit after it wrote its last event."""
FAILED_START_PAUSE_SECONDS = 60.0
"""Pause before a run that could not even be claimed (disk full) is tried again."""

logger = logging.getLogger(__name__)
_SUPERVISORS: dict[Path, Supervisor] = {}
_START_LOCK = threading.Lock()


class Supervisor:
    """Supervises the runs of one save_dir.

    launcher: starts the workers; tests pass one with a fake command. on_run_end: called with the save_dir after a run
    has ended, and at the start when there are ended runs.
    """

    def __init__(
        self,
        save_dir: Path,
        *,
        launcher: Launcher | None = None,
        poll_seconds: float = SUPERVISOR_POLL_SECONDS,
        on_run_end: Callable[[Path], object] | None = None,
    ) -> None:
        self.save_dir = save_dir.absolute()
        self.launcher = launcher or default_launcher(self.save_dir)
        self._poll_seconds = poll_seconds
        self._children: dict[str, ChildWorker] = {}
        self._ended_runs: dict[str, tuple[int, ...]] = {}
        self._dead_since: dict[str, float] = {}
        self._paused_until: dict[str, float] = {}
        self._warned_of: dict[str, str] = {}
        self._waiting_for_spare, self._run_has_ended = False, False
        self._on_run_end = on_run_end
        self._stop_requested, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Supervise in a daemon thread; do nothing if this process already supervises this save_dir."""
        with _START_LOCK:
            known = _SUPERVISORS.get(self.save_dir)
            if known is not None and known.is_alive:
                return
            self._stop_requested.clear()
            self._thread = threading.Thread(target=self._supervise, name=f"supervisor {self.save_dir}", daemon=True)
            self._thread.start()
            _SUPERVISORS[self.save_dir] = self
        probe_machine_in_background(self.save_dir, self.launcher.fast_probe)

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End the thread. Workers continue: the next supervisor finds them by their locks."""
        self._stop_requested.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for child in self._children.values():
            child.release_slots()

    def check_now(self) -> None:
        """Poll at once instead of after the usual pause, for instance because a run was queued."""
        self._wake.set()

    def run_to_end(
        self, run: RunDir, on_status: Callable[[RunStatus], None], *, others_follow: bool = False
    ) -> RunStatus:
        """Supervise in this thread until `run` has ended, and call `on_status` at every poll. Earlier runs go first.

        others_follow: what speeds up their start is kept ready, until the caller closes the launcher.
        """
        while True:
            if others_follow:
                self._call_safely(None, self._maintain_launcher)
            self.tick()
            status = read_run_status(run)
            on_status(status)
            if status.explained:
                self._wait_for_child_exit(run)
                return status
            self._stop_requested.wait(SPARE_POLL_SECONDS if self._waiting_for_spare else self._poll_seconds)

    def tick(self) -> None:
        """Poll once: ended workers, runs that other processes left dead, the next run. Never raises an Exception."""
        self._call_safely(None, self._check_all_runs)

    def _check_all_runs(self) -> None:
        now = time.monotonic()
        self._waiting_for_spare = False
        for child in [one for one in self._children.values() if self._paused_until.get(one.run.id, 0.0) <= now]:
            self._call_safely(child.run, self._check_child, child)
        queue: list[tuple[RunDir, bool]] = []
        for run in self._open_runs():
            self._call_safely(run, self._check_open_run, run, queue)
        if self._run_has_ended and self._on_run_end is not None:
            # before the next start: what is done about an ended run may concern the runs that wait
            self._run_has_ended = False
            self._call_safely(None, self._on_run_end, self.save_dir)
            queue = [(run, can_start) for run, can_start in queue if not (can_start and run.stop_path.exists())]
        if any(can_start for _, can_start in queue):
            self._start_queued_runs(dict(queue))

    def _start_queued_runs(self, can_start: dict[RunDir, bool]) -> None:
        """Start the first runs of the queue in the free slots. can_start: False for one that is alive or just died."""
        table = read_slot_table(self.save_dir)
        if not table.free:
            self._call_safely(None, self._end_lingering)
            return
        # Runs that are alive or have just died take part in the order too, so a run that is about to resume keeps its
        # place. A run that has to wait, for several slots or for memory, lets no later one start before it.
        for run in sort_queued_runs(list(can_start)):
            if not can_start[run]:
                self._call_safely(run, table.keep_place, run)
                continue
            demand = table.demand_of(run)
            numbers = table.choose_slots(run, demand)
            if not numbers and demand.pinned is not None and table.free:
                continue  # it waits for its own GPU, and the others are of no use to it
            if not numbers or not self._call_safely(run, self._start_run, run, table, numbers):
                return
            table.free[:] = [number for number in table.free if number not in numbers]

    def _supervise(self) -> None:
        self._call_safely(None, remove_leftover_dirs, self.save_dir / "runs")
        while not self._stop_requested.is_set():
            if self._wake.wait(SPARE_POLL_SECONDS if self._waiting_for_spare else self._poll_seconds):
                self._wake.clear()
            self._call_safely(None, self._maintain_launcher)
            self.tick()
        self.launcher.close()

    def _maintain_launcher(self) -> None:
        self.launcher.maintain(busy=bool(self._children))

    def _call_safely(self, run: RunDir | None, act: Callable[..., object], *args: Any) -> bool:
        """Call `act`, and return whether it returned True.

        An exception is logged, and the run that it concerns is paused, so that the other runs are not affected. A file
        that can't be read or written is no fault of the program: it is named once, in one line.
        """
        try:
            return bool(act(*args))
        except (ToolkitError, OSError) as error:
            self._warn_once(run, str(error))
        except Exception:
            logger.exception("supervising %s", run.id if run else self.save_dir)
        if run is not None:
            self._paused_until[run.id] = time.monotonic() + FAILED_START_PAUSE_SECONDS
        return False

    def _warn_once(self, run: RunDir | None, text: str) -> None:
        name = run.id if run else str(self.save_dir)
        if self._warned_of.get(name) != text:
            self._warned_of[name] = text
            logger.warning("Supervising %s: %s", name, text)

    def _open_runs(self) -> list[RunDir]:
        """Return the runs that may still change, oldest first."""
        now = time.monotonic()
        runs = [run for run in reversed(list_runs(self.save_dir)) if self._paused_until.get(run.id, 0.0) <= now]
        # an ended run is skipped until its fingerprint changes, which it does when somebody resumes it
        return [
            run
            for run in runs
            if run.id not in self._ended_runs or self._ended_runs[run.id] != ended_run_fingerprint(run)
        ]

    def _check_child(self, child: ChildWorker) -> None:
        # once the worker holds its own lock, it keeps the slot itself: this process's copy must not outlive it
        returncode = child.worker.poll()
        if returncode is not None or is_lock_held(child.run.lock_path):
            child.release_slots()
        if returncode is None:
            child.record_oom_kills()
            return
        if not child.run.path.exists():  # another process deleted it right after its end
            del self._children[child.run.id]
            return
        holder = read_lock_holder(child.run.lock_path)
        known_code = None if returncode == LOST_EXIT_CODE else returncode
        # a multi-process launcher may die before its ranks do: the lock then says that the run is still alive
        if close_dead_attempt(child.run, known_code, child.earlier_oom_kills) or (
            holder is not None and holder.is_alive()
        ):
            del self._children[child.run.id]

    def _check_open_run(self, run: RunDir, queue: list[tuple[RunDir, bool]]) -> None:
        # before the status: a change in between then differs from the fingerprint, and the run is checked again
        fingerprint = ended_run_fingerprint(run)
        status = None if has_last_event(run) else read_run_status(run)
        if status is None or status.explained:
            self._ended_runs[run.id] = fingerprint
            self._run_has_ended = True
            self._dead_since.pop(run.id, None)
        elif status.state == "queued" and (
            status.reason != "disk_full" or has_checkpoint_room(run, int(status.saved.get("bytes") or 0))
        ):
            if is_run_approved(run):
                queue.append((run, True))
        elif status.is_active:
            queue.append((run, False))
        elif status.state == "interrupted":
            queue.append((run, False))
            if run.id not in self._children:
                self._close_foreign(run, status.coming)

    def _close_foreign(self, run: RunDir, attempt: int) -> None:
        """Record the end of a run whose worker another process started, unless that process may still do so."""
        claim = read_claim(run, max(1, attempt))
        since = self._dead_since.setdefault(run.id, time.monotonic())
        if claim is None or not claim.supervisor.is_alive() or time.monotonic() - since > FOREIGN_GRACE_SECONDS:
            close_dead_attempt(run, None)
            self._dead_since.pop(run.id, None)

    def _start_run(self, run: RunDir, table: SlotTable, numbers: tuple[int, ...]) -> bool:
        """Start a run in these slots; return False when it can't start now, or when another process has started it."""
        self._waiting_for_spare = self._should_wait_for_spare(run)
        if self._waiting_for_spare:
            return False
        attempt = read_run_status(run).coming
        with hold_slot_table(table) as alone:
            slots = table.hold(run, numbers) if alone else None
            if slots is None:
                return False
            try:
                return self._start_in_slots(run, attempt, slots, table)
            finally:
                child = self._children.get(run.id)
                if child is None or child.slots is not slots:
                    slots.close()

    def _start_in_slots(self, run: RunDir, attempt: int, slots: HeldSlots, table: SlotTable) -> bool:
        # a worker that outlived its slot (its launcher died) still holds its own lock
        if any(outlived_its_slot(other, slots.share) for other in self._open_runs()):
            return False
        if table.total > 1:
            held = list_slot_holders(self.save_dir)
            beside = [holder.run for number, holder in held if number not in slots.share.numbers]
            if find_memory_shortage(run, beside, slots.share.numbers) is not None:
                return False
        # the slot names the run before the claim exists: other processes then see it as starting, not as dead
        slots.write_holder(LockHolder(0, 0.0, attempt, boot_id(), run.id))
        if not take_claim(run, attempt, slots.share.numbers, describe_share(slots.share, table.machine)):
            return False
        self._launch(run, slots, attempt)
        return True

    def _should_wait_for_spare(self, run: RunDir) -> bool:
        try:
            return self.launcher.should_wait(read_run_config(run))
        except ToolkitError:
            return False  # the launch then fails with this error and records it

    def _launch(self, run: RunDir, slots: HeldSlots, attempt: int) -> None:
        try:
            worker = self.launcher.start(run, read_run_config(run), attempt, slots)
        except ToolkitError as error:
            close_unstarted_attempt(run, Explanation("bad_settings", error.message, error.hint))
        except Exception as error:
            if not isinstance(error, OSError):  # a program or file that can't be used: the run's end names it
                logger.exception("starting %s", run.id)
            close_unstarted_attempt(run, explain_exception(type(error).__name__, str(error)))
        else:
            self._children[run.id] = ChildWorker(run, worker, slots)
            slots.write_holder(worker.holder)

    def _end_lingering(self) -> None:
        """End workers that wrote their last event and do not exit: they would block the queue for ever."""
        for path in list_slot_paths(self.save_dir):
            holder = read_lock_holder(path)
            if holder is None or not holder.is_alive():
                continue
            run = RunDir(self.save_dir / "runs" / holder.run)
            written = time.time() - run.events_path.stat().st_mtime if read_run_status(run).explained else 0.0
            if written > WORKER_LINGER_SECONDS:
                logger.warning("Run %s has ended, but its process %d has not exited. Ending it.", run.id, holder.pid)
                self.launcher.end(holder)

    def _wait_for_child_exit(self, run: RunDir) -> None:
        child = self._children.get(run.id)
        if child is None:
            return
        if not child.worker.wait(WORKER_LINGER_SECONDS):
            logger.warning("Run %s has ended, but its process %d has not exited.", run.id, child.worker.holder.pid)
        self.tick()

"""A worker that this process started: its handle, its slots, and the kernel's out-of-memory counts while it lived."""

from __future__ import annotations

import time
from dataclasses import dataclass

from toolkit.lifecycle.launcher import WorkerHandle
from toolkit.lifecycle.slots import HeldSlots
from toolkit.runs.run_dir import RunDir
from toolkit.system.out_of_memory import count_oom_kills

OOM_COUNT_SECONDS = 5.0
"""Seconds between two counts. A large process needs some seconds to die, so an older kill was of another process."""


@dataclass
class ChildWorker:
    """slots: this process's copies of the slots' descriptors, until the worker holds its own lock; None after that.

    oom_counts: the last two (time.monotonic(), processes that the kernel killed for memory so far).
    """

    run: RunDir
    worker: WorkerHandle
    slots: HeldSlots | None
    oom_counts: tuple[tuple[float, int | None], ...] = ()

    def release_slots(self) -> None:
        """Close this process's copies of the slots; the worker keeps its own."""
        if self.slots is not None:
            self.slots.close()
            self.slots = None

    def record_oom_kills(self) -> None:
        """Read the kernel's count. Call at every poll while the worker is alive."""
        now = time.monotonic()
        if not self.oom_counts or now - self.oom_counts[-1][0] >= OOM_COUNT_SECONDS:
            self.oom_counts = (*self.oom_counts[-1:], (now, count_oom_kills()))

    @property
    def earlier_oom_kills(self) -> int | None:
        """The count some seconds ago; None before the first count, or where the kernel does not provide one."""
        # the older of the two: the newest count may already include the kill of this worker
        return self.oom_counts[0][1] if self.oom_counts else None

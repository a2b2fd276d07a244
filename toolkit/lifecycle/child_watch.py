"""A worker that this process started: its process, its slot, and what the kernel counted while it lived.

Starting and ending workers is `supervisor.py`'s.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

from toolkit.runs.run_dir import RunDir
from toolkit.services.fork_client import ForkedProcess
from toolkit.system.oom_kills import count_oom_kills

OOM_COUNT_SECONDS = 5.0
"""A large process needs some seconds to die; what the kernel ended earlier than that was another one."""


@dataclass
class ChildWorker:
    """slot: our copy of the slot's descriptor, until the worker's own lock is held. oom: the last two looks at the
    kernel's count of processes ended for memory, each with its time."""

    run: RunDir
    process: subprocess.Popen[bytes] | ForkedProcess
    slot: int | None
    oom: tuple[tuple[float, int | None], ...] = ()

    def release_slot(self) -> None:
        if self.slot is not None:
            os.close(self.slot)
            self.slot = None

    def record_oom_kills(self) -> None:
        """Call it at every look at a living worker."""
        now = time.monotonic()
        if not self.oom or now - self.oom[-1][0] >= OOM_COUNT_SECONDS:
            self.oom = (*self.oom[-1:], (now, count_oom_kills()))

    @property
    def oom_before(self) -> int | None:
        """The count some seconds ago; None when nobody looked yet."""
        return self.oom[0][1] if self.oom else None

"""The processes that train one run together, and which of them this one is."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class RunProcesses:
    """The processes of a run on all its machines, and which one this is.

    rank: among all of them. local_rank: among the `local` ones of this machine. The first process of each machine
    writes events, saves and scores, into the run directory of its machine.
    """

    processes: int = 1
    rank: int = 0
    local_rank: int = 0
    local: int = 1

    @property
    def is_main_process(self) -> bool:
        return self.local_rank == 0

    @property
    def spans_machines(self) -> bool:
        return self.local < self.processes


ONE_PROCESS = RunProcesses()


def read_run_processes() -> RunProcesses:
    """Return what the launcher says about this process in its environment; a single process without a launcher."""
    found = (os.environ.get(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    processes, rank, local_rank, local = found
    return RunProcesses(int(processes or 1), int(rank or 0), int(local_rank or 0), int(local or processes or 1))

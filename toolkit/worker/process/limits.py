"""Limits of this process: how much more memory it may take, and how long it lives."""

from __future__ import annotations

import ctypes
import mmap
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_DATA_FIELD = 5
"""Position in /proc/self/statm of the pages that RLIMIT_DATA counts: those that this process alone can write."""


def limit_memory_growth(growth: int) -> None:
    """Let this process take at most `growth` bytes more than now, and leave no core dump.

    Files that are mapped to be read do not count. Only Linux counts all of the memory.
    """
    statm = Path("/proc/self/statm")
    taken = int(statm.read_text().split()[_DATA_FIELD]) * mmap.PAGESIZE if statm.exists() else 0
    for kind, limit in ((resource.RLIMIT_DATA, taken + growth), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is lost. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

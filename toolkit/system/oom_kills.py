"""The Linux kernel's records of processes that it killed because memory ran out: how many, and which ones."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

PID_NAMESPACE = Path("/proc/self/ns/pid")
ROOT_PID_NAMESPACE = "pid:[4026531836]"
"""The initial PID namespace, whose pids the kernel's log contains. Its inode number is a constant of the kernel."""
_KILLED_PROCESS = re.compile(r"Killed process (\d+) ")


def count_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for memory, on the machine and in this process's control group.

    None where the kernel provides no count. Only differences are meaningful: a kill may be in both counts.
    """
    files = [Path("/proc/vmstat")]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif controllers == "memory":
            files.append(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    counts = [count for file in files if (count := _read_oom_count(file)) is not None]
    return sum(counts) if counts else None


def _read_oom_count(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def find_oom_victims(since: float, log: Path = Path("/dev/kmsg")) -> set[int] | None:
    """Return the pids of the processes that the kernel has killed for memory since `since` (Unix seconds).

    None where the kernel's log is not readable, or where its pids are not those of this process's namespace.
    """
    try:
        if str(PID_NAMESPACE.readlink()) != ROOT_PID_NAMESPACE:
            return None
        handle = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    booted = time.time() - time.monotonic()
    try:
        return {
            int(found[1])
            for at, text in _read_kernel_log(handle)
            # one second of tolerance: the two clocks drift apart
            if booted + at >= since - 1 and (found := _KILLED_PROCESS.search(text))
        }
    finally:
        os.close(handle)


def _read_kernel_log(handle: int) -> list[tuple[float, str]]:
    """Return (seconds since the machine started, text) of each record that the kernel still keeps."""
    found: list[tuple[float, str]] = []
    while True:
        try:
            record = os.read(handle, 8192)
        except BlockingIOError:
            return found
        except BrokenPipeError:  # the record was overwritten during the read; the next one is available
            continue
        if not record:
            return found
        head, _, text = record.decode(errors="replace").partition(";")
        fields = head.split(",")
        if len(fields) > 2 and fields[2].isdigit():
            found.append((int(fields[2]) / 1e6, text))

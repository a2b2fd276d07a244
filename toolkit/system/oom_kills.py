"""What the kernel tells about memory that ran out: how many processes it has ended for it, and which ones.

Reads the kernel's own files; knows nothing of runs.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

PID_NAMESPACE = Path("/proc/self/ns/pid")
ROOT_PID_NAMESPACE = "pid:[4026531836]"
"""The first namespace of process ids, in which the kernel's log speaks; its number is fixed in the kernel."""
_KILLED_PROCESS = re.compile(r"Killed process (\d+) ")


def count_oom_kills() -> int | None:
    """How many processes the kernel has ended for memory, in this process's control group and on the machine.

    None where the kernel does not tell.
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
    """The processes that the kernel has ended for memory since then (Unix seconds); None where its log is closed to us
    or speaks of process ids that are not ours."""
    try:
        if str(PID_NAMESPACE.readlink()) != ROOT_PID_NAMESPACE:
            return None
        handle = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    booted = time.time() - time.monotonic()
    try:
        return {int(found[1]) for at, text in _read_kernel_log(handle) if booted + at >= since - 1
                and (found := _KILLED_PROCESS.search(text))}  # fmt: skip
    finally:
        os.close(handle)


def _read_kernel_log(handle: int) -> list[tuple[float, str]]:
    """(seconds since the start of the machine, text) of each record that the kernel still has."""
    found: list[tuple[float, str]] = []
    while True:
        try:
            record = os.read(handle, 8192)
        except BlockingIOError:
            return found
        except BrokenPipeError:  # it was overwritten while we read: the next one is there
            continue
        if not record:
            return found
        head, _, text = record.decode(errors="replace").partition(";")
        fields = head.split(",")
        if len(fields) > 2 and fields[2].isdigit():
            found.append((int(fields[2]) / 1e6, text))

"""One probe: something hostile that is tried, and how to see whether it came through.

`attempt` returns "" when the probe was stopped, and otherwise what came through. A probe that exceeds its time or its
memory, and one whose process dies, has come through as well.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError

PROBE_SECONDS = 12.0
PROBE_MEMORY_BYTES = 2 << 30
MAX_REPORT = 400


@dataclass(frozen=True)
class Probe:
    """kind: a row of the table. isolated: whether it runs in a fork, with limits of time and memory."""

    kind: str
    name: str
    attempt: Callable[[], str]
    seconds: float = PROBE_SECONDS
    isolated: bool = True


@dataclass(frozen=True)
class Outcome:
    """came_through: "" when the probe was stopped."""

    probe: Probe
    came_through: str
    seconds: float


def explained(read: Callable[[], object]) -> str:
    """Call a reader: an error in words is as good as a result, any other exception came through."""
    try:
        read()
    except ToolkitError as error:
        return "" if error.message else "an error without words"
    return ""


def run_probe(probe: Probe) -> Outcome:
    began = time.monotonic()
    found = _run_in_fork(probe) if probe.isolated else _attempt(probe)
    return Outcome(probe, found[:MAX_REPORT], round(time.monotonic() - began, 2))


def _attempt(probe: Probe) -> str:
    try:
        return probe.attempt()
    except Exception as error:  # noqa: BLE001 - what comes through is what is measured
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:160]} ({place.filename.rpartition('/')[2]}:{place.lineno})"


def _run_in_fork(probe: Probe) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + PROBE_MEMORY_BYTES, own + PROBE_MEMORY_BYTES))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.write(writing, b"=" + _attempt(probe)[:MAX_REPORT].encode(errors="replace"))
        os._exit(0)
    os.close(writing)
    report = b"".join(_read_report(reading, time.monotonic() + probe.seconds))
    os.close(reading)
    os.killpg(child, signal.SIGKILL) if _leads_group(child) else os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if report.startswith(b"="):
        return report[1:].decode(errors="replace")
    ended = os.WIFEXITED(status) or os.WTERMSIG(status) != signal.SIGKILL
    return f"the process died (status {status})" if ended else f"no answer within {probe.seconds:.0f} s"


def _leads_group(child: int) -> bool:
    try:
        return os.getpgid(child) == child
    except ProcessLookupError:
        return False


def _read_report(handle: int, deadline: float) -> Iterator[bytes]:
    while select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(handle, 65536)
        if not part:
            return
        yield part

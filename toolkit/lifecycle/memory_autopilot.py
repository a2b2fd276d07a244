"""Auto-recovery from a lack of memory: the next attempt computes half as many rows at a time.

The experiment stays the same. A step still learns from the same rows, which are computed in smaller parts whose
gradients add up (`worker/training/micro_batches.py`). The limit is read from the run's events, so that every later
attempt keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolkit.runs.events import Event, is_finite_number
from toolkit.runs.run_dir import RunDir
from toolkit.system.foreign_files import read_foreign_file

_AUTOPILOT_OFF = re.compile(rb"^autopilot\s*:\s*(?:false|no|off)\s*(?:#|$)", re.IGNORECASE | re.MULTILINE)
OUT_OF_MEMORY_REASONS = frozenset({"out_of_memory", "out_of_memory_gpu"})


def is_autopilot_on(run: RunDir) -> bool:
    """Return whether the run may retry by itself. Settings that can't be read count as yes."""
    # read without validation: a config of a newer version must not turn Auto-recovery off
    try:
        return _AUTOPILOT_OFF.search(read_foreign_file(run.config_path)) is None
    except OSError:
        return True


def find_micro_batch_limit(events: Sequence[Event]) -> int | None:
    """Return how many rows an attempt may compute at once; None while a whole batch fits in memory."""
    limits = [int(event["micro_batch"]) for event in events if _shrinks_micro_batch(event)]
    return min(limits, default=None)


def halve_micro_batch(events: Sequence[Event], attempt: int) -> int | None:
    """Return half of the rows that this attempt computed at once, rounded up.

    None when it ended before it had planned its batches, or when it already computed one row at a time.
    """
    # the plan says what the attempt really used; the settings only say what was asked for
    plans = [event for event in events if event["kind"] == "plan" and event["attempt"] == attempt]
    rows = plans[-1].get("micro_batch") if plans else None
    return (rows + 1) // 2 if isinstance(rows, int) and rows > 1 else None


def last_shrunk_attempt(events: Sequence[Event]) -> int:
    """Return the last attempt after which the limit was halved, or 0 when it never was."""
    return max((int(event["attempt"]) for event in events if _shrinks_micro_batch(event)), default=0)


def describe_micro_batch(rows: int) -> str:
    """Return a sentence that says how the run continues."""
    return (
        f"The run continues with {rows} {'row' if rows == 1 else 'rows'} at a time. This is slower, but the "
        "result is the same."
    )


def _shrinks_micro_batch(event: Event) -> bool:
    return event["kind"] == "interrupted" and is_finite_number(event.get("micro_batch"))

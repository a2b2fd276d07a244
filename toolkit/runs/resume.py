"""Whether a run goes on after its worker ended, and the words for it: the one decision that all who close a run share.

A run goes on by itself when it was ended from outside or for want of memory or space, and stands still when its own
settings, data or code did it. Two attempts in a row without a new checkpoint stop it. Starts nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from toolkit.errors import RunError
from toolkit.runs import autopilot
from toolkit.runs.durable import fsync_dir
from toolkit.runs.events import Event, EventWriter
from toolkit.runs.explain import Explanation
from toolkit.runs.lock import locked
from toolkit.runs.rundir import RunDir, is_living, is_starting
from toolkit.runs.status import RunStatus, read_status

GOES_ON = frozenset(
    {"killed", "interrupted", "native_crash", "process_died", "out_of_memory", "out_of_memory_gpu", "disk_full"}
)
"""Reasons after which another attempt can go better, although nothing was changed."""
TRIES = 2
LEAVING_SECONDS = 10.0


def close_attempt(
    writer: EventWriter, before: Sequence[Event], why: Explanation, *, alone: bool = True, **more: Any
) -> Event:
    """Write the last event of an attempt that ended unasked: `interrupted` when the run goes on, else `failed`.

    before: all events of the run up to now. alone: it may go on by itself. more: further fields of the event.
    """
    if why.reason not in GOES_ON:
        return writer.append("failed", **vars(why), **more)
    if not alone:
        kept = "The autopilot is off: Resume goes on from the last checkpoint."
        return writer.append("failed", **{**vars(why), "hint": f"{why.hint} {kept}"}, **more)
    rows = autopilot.smaller(before, writer.attempt) if why.reason in autopilot.OUT_OF_MEMORY else None
    if rows is not None:
        said = {"message": f"{why.message} {autopilot.words(rows)}", "hint": "", "micro_batch": rows}
        return writer.append("interrupted", **{**vars(why), **said}, **more)
    tried = fruitless(before, writer.attempt)
    if tried < TRIES:
        return writer.append("interrupted", **vars(why), **more)
    message = f"{why.message} It was the {_ordinal(tried)} attempt in a row that ended before a new checkpoint."
    hint = f"{why.hint.removesuffix('.')}. What was learned before is kept: Resume goes on from there."
    return writer.append("failed", reason=why.reason, message=message, hint=hint, **more)


def fruitless(events: Sequence[Event], attempt: int) -> int:
    """How many attempts in a row, `attempt` the last of them, saved nothing.

    Somebody's Resume begins a new count, and so does what the autopilot changed. An attempt that never began counts
    once the one before it did not begin either: an app that died between taking a run and starting it is no fault of
    the run.
    """
    saved = {event["attempt"] for event in events if event["kind"] == "saved"}
    began = {event["attempt"] for event in events if event["kind"] == "started"}
    asked = max((event["attempt"] for event in events if event["kind"] == "requeued"), default=0)
    asked = max(asked, autopilot.last_change(events))
    barren = list(itertools.takewhile(lambda one: one not in saved, range(attempt, asked, -1)))
    return sum(one in began or one - 1 not in began for one in barren)


def can_resume(status: RunStatus) -> bool:
    """Whether a person may let the run go on: it is over and did not reach its end."""
    return status.explained and status.state in ("stopped", "paused", "failed", "interrupted", "cancelled")


def request_resume(run: RunDir) -> None:
    """Put a run that is over back into the queue, to go on from its last checkpoint. Raises RunError, OSError."""
    _let_leave(run)
    with locked(run.lock_path) as free:
        if not free or is_starting(run):
            raise RunError(f"Run {run.id} is still going.", "Stop or pause it first.")
        status = read_status(run, alone=True)
        if status.state == "finished":
            raise RunError(f"Run {run.id} is finished.", "Continue it for more epochs: that is a new run.")
        run.stop_path.unlink(missing_ok=True)
        fsync_dir(run.path)
        if status.attempt and status.explained:
            with EventWriter(run.events_path, status.attempt) as events:
                events.append("requeued", step=status.saved_step)


def _let_leave(run: RunDir) -> None:
    """A worker that has said its last word is gone in a moment."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while time.monotonic() < deadline and is_living(run) and read_status(run).explained:
        time.sleep(0.05)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")

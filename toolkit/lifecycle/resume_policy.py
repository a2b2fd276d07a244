"""Whether a run goes on after its worker ended, and the words for it: the one decision that all who close a run share.

A run goes on by itself when it was ended from outside or for want of memory or space, and stands still when its own
settings, data or code did it. Two attempts in a row without a new checkpoint stop it; one that somebody killed before
it had begun to train says nothing about the run and is not one of the two. Ten in a row that came no further than the
run had been before stop it, too, whoever ended them. Starts nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from toolkit.errors import RunError
from toolkit.lifecycle import memory_autopilot
from toolkit.runs.end_reasons import Explanation
from toolkit.runs.events import Event, EventWriter, is_finite_number
from toolkit.runs.run_dir import RunDir, is_run_alive, is_run_starting
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.durable import fsync_dir
from toolkit.system.locks import hold_lock

RETRYABLE_REASONS = frozenset(
    {"killed", "interrupted", "native_crash", "process_died", "out_of_memory", "out_of_memory_gpu", "disk_full"}
)
"""Reasons after which another attempt can go better, although nothing was changed."""
MAX_ATTEMPTS_WITHOUT_CHECKPOINT = 2
MAX_ATTEMPTS_WITHOUT_PROGRESS = 10
WORKER_EXIT_SECONDS = 10.0
_STEP_EVENTS = ("progress", "log", "saved")


def close_attempt(
    writer: EventWriter, before: Sequence[Event], why: Explanation, *, alone: bool = True, **more: Any
) -> Event:
    """Write the last event of an attempt that ended unasked: `interrupted` when the run goes on, else `failed`.

    before: all events of the run up to now. alone: it may go on by itself. more: further fields of the event.
    """
    said = {name: value for name, value in vars(why).items() if value is not False}
    if why.reason not in RETRYABLE_REASONS:
        return writer.append("failed", **said, **more)
    if not alone:
        kept = "The autopilot is off: Resume goes on from the last checkpoint."
        return writer.append("failed", **{**said, "hint": f"{why.hint} {kept}"}, **more)
    rows = (
        memory_autopilot.halve_micro_batch(before, writer.attempt)
        if why.reason in memory_autopilot.OUT_OF_MEMORY_REASONS
        else None
    )
    if rows is not None:
        smaller = {
            "message": f"{why.message} {memory_autopilot.describe_micro_batch(rows)}",
            "hint": "",
            "micro_batch": rows,
        }
        return writer.append("interrupted", **{**said, **smaller}, **more)
    found = _explain_no_retry(before, writer.attempt, why)
    if not found:
        return writer.append("interrupted", **said, **more)
    hint = f"{why.hint.removesuffix('.')}. What was learned before is kept: Resume goes on from there."
    return writer.append("failed", reason=why.reason, message=f"{why.message} {found}", hint=hint, **more)


def _explain_no_retry(before: Sequence[Event], attempt: int, why: Explanation) -> str:
    """Why another attempt would be in vain, as a sentence; "" when it may go better."""
    if count_attempts_without_checkpoint(before, attempt, outside=why.outside) >= MAX_ATTEMPTS_WITHOUT_CHECKPOINT:
        number = _ordinal(len(list_attempts_without_checkpoint(before, attempt)))
        return f"It was the {number} attempt in a row that ended before a new checkpoint."
    if count_attempts_without_progress(before, attempt) >= MAX_ATTEMPTS_WITHOUT_PROGRESS:
        return f"It was the {_ordinal(MAX_ATTEMPTS_WITHOUT_PROGRESS)} attempt in a row that came no further than the run had been before."
    return ""


def list_attempts_without_checkpoint(events: Sequence[Event], attempt: int) -> list[int]:
    """The attempts in a row that saved nothing, `attempt` the first of them and the older ones behind it."""
    saved = {event["attempt"] for event in events if event["kind"] == "saved"}
    return list(itertools.takewhile(lambda one: one not in saved, range(attempt, _last_reset_attempt(events), -1)))


def count_attempts_without_progress(events: Sequence[Event], attempt: int) -> int:
    """How many attempts in a row, `attempt` the last of them, came to no step that the run had not reached before."""
    furthest = 0
    in_a_row = 0
    for one in range(_last_reset_attempt(events) + 1, attempt + 1):
        steps = (event["step"] for event in events if event["attempt"] == one and event["kind"] in _STEP_EVENTS)
        reached = max(filter(is_finite_number, steps), default=0)
        in_a_row = 0 if reached > furthest else in_a_row + 1
        furthest = max(furthest, reached)
    return in_a_row


def _last_reset_attempt(events: Sequence[Event]) -> int:
    """Counting begins behind this attempt: somebody's Resume begins anew, and so does what the autopilot changed."""
    asked = max((event["attempt"] for event in events if event["kind"] == "requeued"), default=0)
    return max(asked, memory_autopilot.last_shrunk_attempt(events))


def ended_from_outside(events: Sequence[Event], attempt: int) -> bool:
    """Whether somebody else ended this attempt, and the run is to go on."""
    return any(_was_ended_from_outside(event) for event in events if event["attempt"] == attempt)


def _was_ended_from_outside(event: Event) -> bool:
    return event["kind"] == "interrupted" and event.get("outside") is True


def count_attempts_without_checkpoint(events: Sequence[Event], attempt: int, *, outside: bool = False) -> int:
    """How many of the barren attempts count against the run. outside: somebody ended `attempt` from outside.

    One that was ended from outside before it began to train does not. One that never began counts once the one before
    it did not begin either: an app that died between taking a run and starting it is no fault of the run.
    """
    began = {event["attempt"] for event in events if event["kind"] == "started"}
    trained = {event["attempt"] for event in events if event["kind"] == "plan"}
    killed = {event["attempt"] for event in events if _was_ended_from_outside(event)}
    excused = ((killed | {attempt}) if outside else killed) - trained
    counting = (one for one in list_attempts_without_checkpoint(events, attempt) if one not in excused)
    return sum(one in began or one - 1 not in began for one in counting)


def can_resume(status: RunStatus) -> bool:
    """Whether a person may let the run go on: it is over and did not reach its end."""
    return status.explained and status.state in ("stopped", "paused", "failed", "interrupted", "cancelled")


def request_resume(run: RunDir) -> None:
    """Put a run that is over back into the queue, to go on from its last checkpoint. Raises RunError, OSError."""
    _wait_for_worker_exit(run)
    with hold_lock(run.lock_path) as free:
        if not free or is_run_starting(run):
            raise RunError(f"Run {run.id} is still going.", "Stop or pause it first.")
        status = read_run_status(run, alone=True)
        if status.state == "finished":
            raise RunError(f"Run {run.id} is finished.", "Continue it for more epochs: that is a new run.")
        run.stop_path.unlink(missing_ok=True)
        fsync_dir(run.path)
        if status.attempt and status.explained:
            with EventWriter(run.events_path, status.attempt) as events:
                events.append("requeued", step=status.saved_step)


def _wait_for_worker_exit(run: RunDir) -> None:
    """A worker that has said its last word is gone in a moment."""
    deadline = time.monotonic() + WORKER_EXIT_SECONDS
    while time.monotonic() < deadline and is_run_alive(run) and read_run_status(run).explained:
        time.sleep(0.05)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")

"""The claim that starts a run once, and the last words for a run whose worker died without any.

Both work from files alone, so that any process on the save_dir can close what another one started.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.lifecycle.memory_autopilot import is_autopilot_on
from toolkit.lifecycle.resume_policy import close_attempt
from toolkit.runs.end_reasons import Explanation, explain_death
from toolkit.runs.event_facts import EventFacts, update_event_facts
from toolkit.runs.events import EventWriter, read_events
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import fsync_dir
from toolkit.system.locks import LockHolder, boot_id, describe_self, hold_lock, read_lock_holder
from toolkit.system.oom_kills import count_oom_kills, find_oom_victims

WORKER_LOG_TAIL_BYTES = 16_000
DISK_FULL_BYTES = 256 * 1024
_STOP_REQUEST_REASONS = frozenset({"killed", "interrupted", "bug"})


@dataclass(frozen=True)
class Claim:
    """Who started a run, how many processes the kernel had ended for memory by then, and how long the log was.

    oom_kills: None where the kernel does not tell.
    """

    supervisor: LockHolder
    oom_kills: int | None
    at: float
    log_bytes: int = 0


def take_claim(run: RunDir, attempt: int = 1) -> bool:
    """Claim one attempt for this process; False when somebody did, or when the run is deleted. Raises OSError."""
    try:
        handle = os.open(run.claim_of(attempt), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):
        return False
    body = {"supervisor": vars(describe_self(attempt, run.id)), "oom_kills": count_oom_kills(), "at": time.time()}
    body["log_bytes"] = run.log_path.stat().st_size if run.log_path.exists() else 0
    with os.fdopen(handle, "w") as file:
        json.dump({"schema": 1, **body}, file)
        file.flush()
        os.fsync(file.fileno())
    fsync_dir(run.path)
    return True


def read_claim(run: RunDir, attempt: int = 1) -> Claim | None:
    """The body of an attempt's claim; None when there is none, or its writer died before it was whole."""
    try:
        body: dict[str, Any] = json.loads(run.claim_of(attempt).read_bytes())
        kills = body["oom_kills"]
        holder = LockHolder.from_json(body["supervisor"])
        return Claim(holder, None if kills is None else int(kills), float(body["at"]), int(body.get("log_bytes", 0)))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def close_dead_attempt(run: RunDir, returncode: int | None, earlier_oom_kills: int | None = None) -> bool:
    """Write the last event of an attempt whose worker is dead and left none. False while somebody holds its lock.

    earlier_oom_kills: `oom_kills()` shortly before it died, where somebody looked; None is as of its start.
    """
    return _write_last_event(run, lambda attempt: explain_run_death(run, returncode, attempt, earlier_oom_kills))


def close_unstarted_attempt(run: RunDir, why: Explanation) -> bool:
    """Write the last event of an attempt that was claimed and could not be started."""
    return _write_last_event(run, lambda attempt: why)


def explain_run_death(
    run: RunDir, returncode: int | None, attempt: int = 1, earlier_oom_kills: int | None = None
) -> Explanation:
    """Why the run's worker died, from its return code (None: another process was its parent), log, and the kernel."""
    claim = read_claim(run, attempt)
    return explain_death(
        returncode,
        read_log_tail(run, start=claim.log_bytes if claim else 0),
        oom_killed=_was_killed_for_memory(run, claim, earlier_oom_kills),
        rebooted=claim is not None and claim.supervisor.boot != boot_id(),
        disk_full=_is_disk_full(run.path),
    )


def _was_killed_for_memory(run: RunDir, claim: Claim | None, before: int | None) -> bool | None:
    """Whether the kernel ended this run's worker for memory; None where it can't be known.

    Its counters tell of every process of the machine. Its log, where it may be read, tells which one it was.
    """
    kills, before = count_oom_kills(), claim.oom_kills if claim and before is None else before
    if claim is None or before is None or kills is None:
        return None
    if kills <= before:
        return False
    victims, holder = find_oom_victims(claim.at), read_lock_holder(run.lock_path)
    alone = holder is not None and holder.launcher_pid is None
    return holder.pid in victims if victims is not None and holder is not None and alone else True


def _is_disk_full(path: Path) -> bool:
    """Whether the volume has no room for another log line, or for another file."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize < DISK_FULL_BYTES or (found.f_files > 0 and found.f_favail == 0)


def _write_last_event(run: RunDir, explain: Callable[[int], Explanation]) -> bool:
    with hold_lock(run.lock_path) as mine:
        if not mine:
            return False
        before = read_events(run.events_path)[0]
        facts = update_event_facts(EventFacts(), before)
        attempt = facts.next_attempt
        if facts.end is not None or (facts.waiting and not run.claim_of(attempt).exists()):
            return True
        why = explain(attempt)
        with EventWriter(run.events_path, attempt) as events:
            if run.stop_path.exists() and why.reason in _STOP_REQUEST_REASONS:
                message = "Ended on request, at once: what was not saved is lost."
                events.append("stopped", step=facts.step, message=message, hint="", reason="killed")
            else:
                close_attempt(events, before, why, alone=is_autopilot_on(run))
    return True


def read_log_tail(run: RunDir, lines: int | None = None, *, start: int = 0) -> str:
    """The end of worker.log (at most 16 kB, or so many lines) from byte `start` on; "" when there is none."""
    try:
        with run.log_path.open("rb") as file:
            file.seek(max(start, run.log_path.stat().st_size - WORKER_LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return text if lines is None else "\n".join(text.splitlines()[-lines:])

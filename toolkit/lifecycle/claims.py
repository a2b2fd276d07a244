"""Claims, which start each attempt of a run once, and the last event for a worker that died without writing one.

Both use files only, so any process on the save_dir can close what another one started. `claim` (or `claim-2`, ...) is
a JSON file with the fields of `Claim`; whoever creates it starts the attempt.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.cluster.lease import NODE_LOST, NodeReport, lease_path, read_lease, read_report
from toolkit.lifecycle.memory_autopilot import is_autopilot_on
from toolkit.lifecycle.resume_policy import close_attempt
from toolkit.runs.end_reasons import START_AGAIN, Explanation, explain_death
from toolkit.runs.event_facts import EventFacts, update_event_facts
from toolkit.runs.events import EventWriter, detach_event_log, read_events
from toolkit.runs.run_dir import RunDir
from toolkit.runs.slots import MAX_SLOTS
from toolkit.system.durable import fsync_dir
from toolkit.system.foreign_files import open_regular_file, read_foreign_json
from toolkit.system.locks import LockHolder, boot_id, describe_self, hold_lock, read_lock_holder
from toolkit.system.out_of_memory import count_oom_kills, find_oom_victims

WORKER_LOG_TAIL_BYTES = 16_000
"""How much of worker.log is searched for a cause of death: a few tracebacks."""
DISK_FULL_BYTES = 256 * 1024
"""Free space below which a write of the worker may have failed; some file systems keep a small reserve."""
MAX_PLACE_CHARACTERS = 200
CLUSTER_LOST = "The connection to the Ray cluster broke off."
_STOP_REQUEST_REASONS = frozenset({"killed", "interrupted", "bug", NODE_LOST})
"""Reasons that a requested end explains as well; a lack of memory or a full disk is reported even then."""


@dataclass(frozen=True)
class Claim:
    """Who started an attempt, and the state of the machine at that moment.

    supervisor: the process that started it. oom_kills: processes that the kernel had killed for memory by then; None
    where it keeps no count. at: Unix seconds. log_bytes: length of worker.log. slots: what the attempt was given, and
    where: the same for the user, "" while one run trains at a time.
    """

    supervisor: LockHolder
    oom_kills: int | None
    at: float
    log_bytes: int = 0
    slots: tuple[int, ...] = (0,)
    where: str = ""


def take_claim(run: RunDir, attempt: int = 1, slots: tuple[int, ...] = (0,), where: str = "") -> bool:
    """Claim an attempt for this process. Return False if another process has claimed it or the run is deleted.

    slots, where: as in `Claim`. Raises OSError.
    """
    try:
        # O_EXCL: of several processes exactly one creates the file
        handle = os.open(run.claim_of(attempt), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (FileExistsError, FileNotFoundError):
        return False
    body = {"supervisor": vars(describe_self(attempt, run.id)), "oom_kills": count_oom_kills(), "at": time.time()}
    # earlier attempts wrote to the same log: only what follows belongs to this one
    body["log_bytes"] = run.log_path.stat().st_size if run.log_path.exists() else 0
    # with one slot the file stays as earlier versions wrote it
    place = {"slots": slots, "where": where} if where else {}
    with os.fdopen(handle, "w") as file:
        json.dump({"schema": 1, **body, **place}, file)
        file.flush()
        os.fsync(file.fileno())
    fsync_dir(run.path)  # after a power cut, an attempt that may have started must not look unclaimed
    return True


def read_claim(run: RunDir, attempt: int = 1) -> Claim | None:
    """Return an attempt's claim; None when there is none, or when its writer died before it was complete."""
    try:
        body: dict[str, Any] = read_foreign_json(run.claim_of(attempt))
        kills = body["oom_kills"]  # null where the kernel keeps no count
        holder = LockHolder.from_json(body["supervisor"])
        slots = tuple(int(number) for number in body.get("slots", (0,))[:MAX_SLOTS])
        counted = None if kills is None else int(kills)
        where = str(body.get("where", ""))[:MAX_PLACE_CHARACTERS]
        return Claim(holder, counted, float(body["at"]), int(body.get("log_bytes", 0)), slots, where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def close_dead_attempt(run: RunDir, returncode: int | None, earlier_oom_kills: int | None = None) -> bool:
    """Write the last event of an attempt whose worker died without one. Return False while its lock is held.

    earlier_oom_kills: the kernel's count shortly before the death, if it was read; None takes that of the claim.
    """
    return _write_last_event(run, lambda attempt: explain_run_death(run, returncode, attempt, earlier_oom_kills))


def close_unstarted_attempt(run: RunDir, explanation: Explanation) -> bool:
    """Write the last event of an attempt that was claimed but could not be started."""
    return _write_last_event(run, lambda attempt: explanation)


def explain_run_death(
    run: RunDir, returncode: int | None, attempt: int = 1, earlier_oom_kills: int | None = None
) -> Explanation:
    """Explain the death of a run's worker from its exit code, its log, the disk and the kernel's counts.

    returncode: None when another process was its parent. earlier_oom_kills: as in `close_dead_attempt`.
    """
    claim = read_claim(run, attempt)
    tail = read_log_tail(run, start=claim.log_bytes if claim else 0)
    report = read_report(run.path, attempt)
    if report is not None and report.reason == NODE_LOST and (returncode or 0) < 0:
        report = None  # the worker here was killed: that the node lost its connection is the consequence
    lease = read_lease(run.path)
    if report is None and lease is not None and lease.attempt == attempt and (returncode or 0) > 0:
        report = NodeReport(attempt, reason=NODE_LOST, message=CLUSTER_LOST, hint=START_AGAIN, outside=True)
    if report is not None and report.reason:
        return Explanation(report.reason, report.message, report.hint, outside=report.outside)
    if report is not None:
        return explain_death(report.code, tail, oom_killed=report.oom, disk_full=_is_disk_full(run.path))
    return explain_death(
        returncode,
        tail,
        oom_killed=_was_killed_for_memory(run, claim, earlier_oom_kills),
        rebooted=claim is not None and claim.supervisor.boot != boot_id(),
        disk_full=_is_disk_full(run.path),
    )


def _was_killed_for_memory(run: RunDir, claim: Claim | None, before: int | None) -> bool | None:
    """Return whether the kernel killed this run's worker for memory; None when that is unknown."""
    # the counts include every process of the machine; the kernel's log, where it is readable, names the process
    kills, before = count_oom_kills(), claim.oom_kills if claim and before is None else before
    if claim is None or before is None or kills is None:
        return None
    if kills <= before:
        return False
    victims, holder = find_oom_victims(claim.at), read_lock_holder(run.lock_path)
    alone = holder is not None and holder.launcher_pid is None
    return holder.pid in victims if victims is not None and holder is not None and alone else True


def _is_disk_full(path: Path) -> bool:
    """Return whether the volume has no space for another log line, or for another file."""
    volume = os.statvfs(path)
    # f_files is 0 on file systems that have no fixed number of inodes
    return volume.f_bavail * volume.f_frsize < DISK_FULL_BYTES or (volume.f_files > 0 and volume.f_favail == 0)


def _write_last_event(run: RunDir, explain: Callable[[int], Explanation]) -> bool:
    # holding the worker's lock proves that it is dead, and that no other process writes to the log
    with hold_lock(run.lock_path) as acquired:
        if not acquired:
            return False
        before = read_events(run.events_path)[0]
        facts = update_event_facts(EventFacts(), before)
        attempt = facts.next_attempt
        if facts.end is not None or (facts.waiting and not run.claim_of(attempt).exists()):
            return True  # another process, or the worker itself, has written the last event
        if lease_path(run.path).exists():
            # the lock proves nothing about a node of a cluster: what is left there must not write behind this event
            detach_event_log(run.events_path)
        why = explain(attempt)
        with EventWriter(run.events_path, attempt) as events:
            if run.stop_path.exists() and why.reason in _STOP_REQUEST_REASONS:
                message = "Killed on request: work since the last checkpoint is lost."
                events.append("stopped", step=facts.step, message=message, hint="", reason="killed")
            else:
                close_attempt(events, before, why, may_retry=is_autopilot_on(run))
    return True


def read_log_tail(run: RunDir, lines: int | None = None, *, start: int = 0) -> str:
    """Return the end of worker.log from byte `start` on, at most 16 kB; "" when there is none.

    lines: at most this many of its last lines.
    """
    try:
        with open_regular_file(run.log_path) as file:
            # a tail only: a run of days writes a log of many megabytes
            file.seek(max(start, run.log_path.stat().st_size - WORKER_LOG_TAIL_BYTES))
            text = file.read(WORKER_LOG_TAIL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"The log can't be read: {error.strerror}."
    return text if lines is None else "\n".join(text.splitlines()[-lines:])

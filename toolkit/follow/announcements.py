"""Which ends of runs people are told of, and that they are told once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from toolkit.follow.follow_state import FollowState, save_follow_state
from toolkit.follow.notifications import neutralize_for_messengers, send_notification
from toolkit.runs.events import is_finite_number
from toolkit.runs.run_dir import RunDir, is_run_approved, read_run_meta
from toolkit.runs.status import RunStatus
from toolkit.system.printable import format_duration, format_share

SEND_ATTEMPTS = 8
"""A line that could not be sent is tried again after 1, 2, 4, ... seconds: for two minutes in all."""

logger = logging.getLogger(__name__)


class Announcer:
    """Sends a line about each end to every address. state: what earlier processes have sent."""

    def __init__(self, save_dir: Path, addresses: Sequence[str], state: FollowState) -> None:
        self._save_dir, self._addresses, self._state = save_dir, addresses, state
        self._paused_until: dict[tuple[str, str], float] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._sent: set[tuple[str, str]] = set()

    def tell(self, run: RunDir, status: RunStatus) -> bool:
        """Send a line if the run's state calls for one. Return whether nothing is left to be sent."""
        state = _state_to_tell(run, status)
        told = f"{state} {status.attempt}"
        if not state or not self._addresses or self._state.told.get(run.id) == told:
            return True
        if run.events_path.exists() and run.events_path.stat().st_mtime < self._state.since:
            return True
        text = describe_for_a_person(run, status, state)
        left = [
            place for place in self._addresses if not self._send(place, told, text, {"run": run.id, "state": state})
        ]
        if not left:
            self._state.told[run.id] = told
            save_follow_state(self._save_dir, self._state)
        return not left

    def _send(self, address: str, told: str, text: str, facts: dict[str, str]) -> bool:
        """Return whether this line is done with: sent, or given up after several attempts."""
        key = (address, f"{facts['run']} {told}")
        failures = self._failures.get(key, 0)
        if key in self._sent or failures == SEND_ATTEMPTS:
            return True
        if self._paused_until.get(key, 0.0) > time.monotonic():
            return False
        why = send_notification(address, text, facts)
        if not why:
            self._sent.add(key)
            return True
        logger.warning("The line about run %s was not sent: %s.", facts["run"], why)
        self._failures[key] = failures + 1
        self._paused_until[key] = time.monotonic() + 2.0**failures
        return False


def describe_for_a_person(run: RunDir, status: RunStatus, state: str) -> str:
    """Return the line that is sent: the run's name, its state, and its result or its reason."""
    name = read_run_meta(run).get("name") or run.id
    if state == "waiting for approval":
        return neutralize_for_messengers(f"{name}: waiting for approval on the Runs page.")
    match = status.scores.get("exact_match")
    score = f", exact match {format_share(match)}" if is_finite_number(match) else ""
    result = f" after {format_duration(status.elapsed_s)}{score}" if state == "finished" else ""
    reason = f"{status.message} {status.hint}".strip()
    return neutralize_for_messengers(f"{name}: {state}{result}." + (f" {reason}" if reason else ""))


def _state_to_tell(run: RunDir, status: RunStatus) -> str:
    if status.state == "queued":
        return "" if is_run_approved(run) else "waiting for approval"
    return status.state if status.explained else ""

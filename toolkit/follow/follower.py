"""Following the runs of a save_dir from a process of its own: trackers get their points, people get a line.

Training does not know of it. What is kept, in `follow/state.json`, only spares work: a tracker that is opened again
writes a run from its first event, and replaces what an earlier process wrote or leaves out what it has. So a kill at
any moment loses no point and doubles none. A line that was sent, but not recorded before a kill, is sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.errors import RunError, ToolkitError
from toolkit.follow.announcements import Announcer
from toolkit.follow.follow_state import follow_state_path, read_follow_state, save_follow_state
from toolkit.follow.trackers import FollowedRun, Points, Tracker, TrackerKind
from toolkit.runs.events import collect_series, is_finite_number, read_events
from toolkit.runs.run_dir import RunDir, ended_run_fingerprint, list_runs, read_run_config, read_run_meta
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.locks import hold_lock

FOLLOW_POLL_SECONDS = 1.0
TRACKER_PAUSE_SECONDS = 60.0
"""Pause before a tracker that failed is tried again."""

logger = logging.getLogger(__name__)


@dataclass
class _Followed:
    """A run that has not ended. offset: byte of its log to continue from. steps: the last one of each measurement."""

    tracker: Tracker
    offset: int = 0
    steps: dict[str, int] = field(default_factory=dict)


class Follower:
    """Follows the runs of one save_dir. kinds: the trackers. addresses: who is told. only: one run's ID, or ""."""

    def __init__(
        self, save_dir: Path, kinds: Mapping[str, TrackerKind], addresses: Sequence[str], only: str = ""
    ) -> None:
        self._save_dir, self._kinds, self._only = save_dir, kinds, only
        self._state = read_follow_state(save_dir)
        self._announcer = Announcer(save_dir, addresses, self._state)
        self._open: dict[tuple[str, str], _Followed] = {}
        self._paused_until: dict[tuple[str, str], float] = {}
        self._seen: dict[str, tuple[int, ...]] = {}

    def poll(self) -> bool:
        """Copy what is new, and return whether the run that is followed alone has ended; always False without one."""
        for run in list_runs(self._save_dir):
            if self._only and run.id != self._only:
                continue
            try:
                ended = self._poll_run(run)
            except (ToolkitError, OSError) as error:  # a damaged run, or a full disk: the others go on
                logger.warning("Run %s: %s", run.id, error)
                continue
            if ended and run.id == self._only:
                return True
        return False

    def close(self) -> None:
        """Write what is pending; runs that go on are continued by the next process."""
        for followed in self._open.values():
            followed.tracker.close("")
        self._open.clear()

    def _poll_run(self, run: RunDir) -> bool:
        fingerprint = ended_run_fingerprint(run)
        if self._seen.get(run.id) == fingerprint:
            return True
        status = read_run_status(run)
        before = [self._state.written.get(name, {}).get(run.id) for name in self._kinds]
        copied = [self._copy_safely(run, status, name) for name in self._kinds]
        if before != [self._state.written[name].get(run.id) for name in self._kinds]:
            save_follow_state(self._save_dir, self._state)
        told = self._announcer.tell(run, status)
        if status.explained and all(copied) and told:
            self._seen[run.id] = fingerprint
            return True
        return False

    def _copy_safely(self, run: RunDir, status: RunStatus, name: str) -> bool:
        """Copy what is new to a tracker and return whether it worked; one that fails is opened again after a pause."""
        key, kind = (name, run.id), self._kinds[name]
        self._state.written.setdefault(name, {})
        if self._paused_until.get(key, 0.0) > time.monotonic():
            return False
        try:
            self._copy_points(run, status, name)
        except kind.errors as error:
            logger.warning("Run %s is not in %s: %s", run.id, kind.title, error)
            self._open.pop(key, None)
            self._paused_until[key] = time.monotonic() + TRACKER_PAUSE_SECONDS
            return False
        return True

    def _copy_points(self, run: RunDir, status: RunStatus, name: str) -> None:
        size = run.events_path.stat().st_size if run.events_path.exists() else 0
        written = self._state.written[name]
        if not size or written.get(run.id) == size:
            return
        key = (name, run.id)
        followed = self._open.get(key) or self._open_tracker(run, name)
        events, offset = read_events(run.events_path, followed.offset)
        points = collect_series(events)
        if any(column[0][0] <= followed.steps.get(one, -1) for one, column in points.items()):
            # a resumed run repeats its last steps: what it measures now replaces what it measured before
            followed.tracker.close("")
            followed = self._open_tracker(run, name)
            events, offset = read_events(run.events_path)
            points = collect_series(events)
        followed.tracker.write(points)
        followed.offset = offset
        followed.steps.update({one: column[-1][0] for one, column in points.items()})
        if status.explained:
            followed.tracker.write(_final_scores(status))
            followed.tracker.close(status.state)
            del self._open[key]
            written[run.id] = offset

    def _open_tracker(self, run: RunDir, name: str) -> _Followed:
        self._open[name, run.id] = opened = _Followed(self._kinds[name].open(_describe_run(run)))
        return opened


@contextmanager
def hold_follower(save_dir: Path) -> Iterator[None]:
    """Be the only process that follows the runs of `save_dir`. Raises RunError while another one does."""
    folder = follow_state_path(save_dir).parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold_lock(folder / "lock") as alone:
        if not alone:
            raise RunError("Another process follows the runs of this folder already.", "End that one first.")
        yield


def follow_runs(follower: Follower, should_end: Callable[[], bool], pause: Callable[[float], object]) -> None:
    """Poll until the single run that is followed has ended, or `should_end` returns True."""
    try:
        while not follower.poll() and not should_end():
            pause(FOLLOW_POLL_SECONDS)
    finally:
        follower.close()


def _final_scores(status: RunStatus) -> Points:
    """Return the shares that the adapter reached on the test rows, at the last step."""
    return {
        f"scores/{name}": [(status.step, float(value))]
        for name, value in status.scores.items()
        if isinstance(value, float) and is_finite_number(value)
    }


def _describe_run(run: RunDir) -> FollowedRun:
    values = read_run_config(run).model_dump(mode="json", exclude_none=True)
    return FollowedRun(run.id, str(read_run_meta(run).get("name") or ""), dict(_flatten(values)))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)

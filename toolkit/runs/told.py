"""What runs have told in their logs: each log is parsed once in this process, and read on from where a look ended.

State and curves come out of the same parse, for every page, rerun and thread. A pure cache, which may be emptied at any
time: facts of many runs are kept, curves of the few that somebody has drawn lately, and of the first ones met.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.runs.curve import Curve
from toolkit.runs.event_facts import EventFacts, update_event_facts
from toolkit.runs.events import Event, collect_series_columns, read_events

MAX_CACHED_RUNS = 1000
"""Runs whose facts are kept in memory, some kilobytes each."""
MAX_CACHED_CURVES = 20
"""Runs whose curves are: 16 bytes for each point of each series."""


@dataclass
class _CachedLog:
    """offset: bytes read. curves: None where they are not kept."""

    offset: int = 0
    facts: EventFacts = field(default_factory=EventFacts)
    curves: dict[str, Curve] | None = None

    def read_on(self, path: Path, size: int) -> None:
        if size < self.offset:  # a torn tail was cut off behind what we read: never below whole lines
            self.__init__(curves=None if self.curves is None else {})  # type: ignore[misc]
        if size > self.offset:
            new, self.offset = read_events(path, self.offset)
            self.take(new)

    def take(self, new: list[Event]) -> None:
        self.facts = update_event_facts(self.facts, new)
        if self.curves is None:
            return
        for name, (steps, values) in collect_series_columns(new).items():
            found = Curve.from_columns(steps, values)
            self.curves[name] = self.curves[name].updated_with(found) if name in self.curves else found


_LogKey = tuple[Path, int]
_cached_logs: OrderedDict[_LogKey, _CachedLog] = OrderedDict()
_cached_curves: OrderedDict[_LogKey, None] = OrderedDict()
_guard = threading.Lock()


def read_event_facts(events_path: Path) -> EventFacts:
    """What the events of a run say by now. Costs only what is new since anybody's last look."""
    with _guard:
        found = _read_cached_log(events_path, curves=False)
        return found.facts if found else EventFacts()


def read_run_curves(events_path: Path) -> dict[str, Curve]:
    """Every series of a run as (step, value) by rising step. Costs only what is new since anybody's last look."""
    with _guard:
        found = _read_cached_log(events_path, curves=True)
        return dict(found.curves or {}) if found else {}


def _read_cached_log(path: Path, *, curves: bool) -> _CachedLog | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    key = (path, stat.st_ino)
    known = _cached_logs.get(key)
    if known is None or (curves and known.curves is None):
        wanted = curves or len(_cached_curves) < MAX_CACHED_CURVES  # who looks at a run's state often draws it next
        known = _cached_logs[key] = _CachedLog(curves={} if wanted else None)
        if wanted:
            _cached_curves[key] = None
    known.read_on(path, stat.st_size)
    _cached_logs.move_to_end(key)
    if curves:
        _cached_curves.move_to_end(key)
    if len(_cached_logs) > MAX_CACHED_RUNS:
        _cached_curves.pop(_cached_logs.popitem(last=False)[0], None)
    if len(_cached_curves) > MAX_CACHED_CURVES:
        _cached_logs[_cached_curves.popitem(last=False)[0]].curves = None
    return known

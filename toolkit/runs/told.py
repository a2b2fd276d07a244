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
from toolkit.runs.event_facts import Facts, advance
from toolkit.runs.events import Event, columns, read_events

REMEMBERED = 1000
"""Runs whose facts are kept in memory, some kilobytes each."""
DRAWN = 20
"""Runs whose curves are: 16 bytes for each point of each series."""


@dataclass
class _Log:
    """offset: bytes read. curves: None where they are not kept."""

    offset: int = 0
    facts: Facts = field(default_factory=Facts)
    curves: dict[str, Curve] | None = None

    def read_on(self, path: Path, size: int) -> None:
        if size < self.offset:  # a torn tail was cut off behind what we read: never below whole lines
            self.__init__(curves=None if self.curves is None else {})  # type: ignore[misc]
        if size > self.offset:
            new, self.offset = read_events(path, self.offset)
            self.take(new)

    def take(self, new: list[Event]) -> None:
        self.facts = advance(self.facts, new)
        if self.curves is None:
            return
        for name, (steps, values) in columns(new).items():
            found = Curve.from_columns(steps, values)
            self.curves[name] = self.curves[name].with_new(found) if name in self.curves else found


_Key = tuple[Path, int]
_logs: OrderedDict[_Key, _Log] = OrderedDict()
_drawn: OrderedDict[_Key, None] = OrderedDict()
_guard = threading.Lock()


def facts(events_path: Path) -> Facts:
    """What the events of a run say by now. Costs only what is new since anybody's last look."""
    with _guard:
        found = _look(events_path, curves=False)
        return found.facts if found else Facts()


def curves(events_path: Path) -> dict[str, Curve]:
    """Every series of a run as (step, value) by rising step. Costs only what is new since anybody's last look."""
    with _guard:
        found = _look(events_path, curves=True)
        return dict(found.curves or {}) if found else {}


def _look(path: Path, *, curves: bool) -> _Log | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    key = (path, stat.st_ino)
    known = _logs.get(key)
    if known is None or (curves and known.curves is None):
        wanted = curves or len(_drawn) < DRAWN  # who looks at a run's state often draws it next
        known = _logs[key] = _Log(curves={} if wanted else None)
        if wanted:
            _drawn[key] = None
    known.read_on(path, stat.st_size)
    _logs.move_to_end(key)
    if curves:
        _drawn.move_to_end(key)
    if len(_logs) > REMEMBERED:
        _drawn.pop(_logs.popitem(last=False)[0], None)
    if len(_drawn) > DRAWN:
        _logs[_drawn.popitem(last=False)[0]].curves = None
    return known

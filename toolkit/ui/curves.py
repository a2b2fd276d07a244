"""A run's curves for the screen: read on from where the last look ended, smoothed, and thinned with spikes kept.

Knows events and numbers, no chart library.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from toolkit.runs.events import read_events, series

Point = tuple[int, float]
MAX_POINTS = 500
REMEMBERED = 50


class _Reader:
    """Follows one events file; holds the latest value of every series at every step."""

    def __init__(self) -> None:
        self.offset = 0
        self.points: dict[str, dict[int, float]] = {}

    def read_on(self, path: Path) -> None:
        if path.exists() and path.stat().st_size < self.offset:
            self.offset, self.points = 0, {}  # a torn tail was cut off: look again from the start
        new, self.offset = read_events(path, self.offset)
        for name, values in series(new).items():
            self.points.setdefault(name, {}).update(values)


_known: OrderedDict[Path, _Reader] = OrderedDict()
_guard = threading.Lock()


def curves(events_path: Path) -> dict[str, list[Point]]:
    """Every series of a run as (step, value) by rising step. Costs only what is new since the last call."""
    with _guard:
        reader = _known.setdefault(events_path, _Reader())
        _known.move_to_end(events_path)
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
        reader.read_on(events_path)
        return {name: sorted(values.items()) for name, values in reader.points.items()}


def smooth(points: Sequence[Point], weight: float) -> list[Point]:
    """An exponential moving average without the pull towards zero at the start; weight 0 changes nothing, < 1."""
    total = norm = 0.0
    result = []
    for step, value in points:
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result.append((step, total / norm))
    return result


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points (at least 4): the first, the last, and the lowest and highest of each stretch between."""
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    stretches = (limit - 2) // 2
    kept = [points[0]]
    for number in range(stretches):
        stretch = inner[len(inner) * number // stretches : len(inner) * (number + 1) // stretches]
        low = min(stretch, key=lambda point: point[1])
        high = max(stretch, key=lambda point: point[1])
        kept += sorted({low, high})
    return [*kept, points[-1]]

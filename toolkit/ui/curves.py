"""A run's curves for the screen: smoothed, and thinned with spikes kept. Knows numbers, no file and no charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.runs.curve import Curve, Point

MAX_POINTS = 500


def settled(curve: Curve) -> Curve:
    """Without the newest points that would not move a pixel yet: the same picture again is not sent again.

    Fewer than two points for each that is drawn are always whole.
    """
    stride = max(1, len(curve) // MAX_POINTS)
    return curve[: len(curve) - len(curve) % stride]


def smooth(points: Sequence[Point], weight: float) -> Curve:
    """An exponential moving average without the pull towards zero at the start; weight 0 changes nothing, < 1."""
    curve = Curve.of(points)
    if not weight or not len(curve):
        return curve
    powers = weight ** np.arange(len(curve) + 1)
    # the average of a stretch is a product with one small matrix; what came before fades into it
    size = min(64, len(curve))
    gaps = np.subtract.outer(np.arange(size), np.arange(size))
    inside = np.where(gaps >= 0, powers[np.abs(gaps)], 0.0) * (1 - weight)
    padded = np.zeros(-(-len(curve) // size) * size)
    padded[: len(curve)] = curve.values
    within = padded.reshape(-1, size) @ inside.T
    carried, total = np.empty(len(within)), 0.0
    for number, last in enumerate(within[:, -1].tolist()):
        carried[number] = total
        total = last + powers[size] * total
    totals = (within + np.outer(carried, powers[1 : size + 1])).reshape(-1)[: len(curve)]
    return Curve(curve.steps, totals / (1 - powers[1:]))


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points (at least 4): the first, the last, and the lowest and highest of each stretch between."""
    if len(points) <= limit:
        return list(points)
    curve = Curve.of(points)
    stretches = (limit - 2) // 2
    bounds = 1 + (len(curve) - 2) * np.arange(stretches + 1) // stretches
    kept = [0]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = curve.values[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return [curve[at] for at in [*kept, len(curve) - 1]]

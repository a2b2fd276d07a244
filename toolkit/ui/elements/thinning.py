"""A run's curves for the screen: smoothed, and thinned with spikes kept. Knows numbers, no file and no charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.runs.curve import Curve, CurvePoint

MAX_POINTS, MAX_POINTS_SMALL = 500, 150
"""In a chart over the whole width of a page, and in one of several beside each other."""
SMOOTHING_BLOCK = 64
"""Points that are smoothed at a time: any weight above 0.00002 to this power is still a number."""
START_BIAS_POINTS = 2000
"""Points after which the start weighs nothing any more: 0.98 to this power is less than a float64 can tell from 0."""


def whole_strides(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """Without the newest points that would not move a pixel yet: the same picture is neither sent nor drawn again.

    Fewer than two points for each that is drawn are always whole.
    """
    stride = max(1, len(curve) // limit)
    return curve[: len(curve) - len(curve) % stride]


def smooth_curve(points: Sequence[CurvePoint], weight: float) -> Curve:
    """An exponential moving average without the pull towards zero at the start; weight 0 changes nothing, < 1."""
    curve = Curve.of(points)
    if not weight or not len(curve):
        return curve
    powers = weight ** np.arange(SMOOTHING_BLOCK + 1)
    # within a stretch a running sum of what the powers have grown back; what came before fades into it
    size = min(SMOOTHING_BLOCK, len(curve))
    padded = np.zeros(-(-len(curve) // size) * size)
    padded[: len(curve)] = curve.values
    within = (1 - weight) * powers[:size] * np.cumsum(padded.reshape(-1, size) / powers[:size], axis=1)
    carried, total = np.empty(len(within)), 0.0
    for number, last in enumerate(within[:, -1].tolist()):
        carried[number] = total
        total = last + powers[size] * total
    totals = (within + np.outer(carried, powers[1 : size + 1])).reshape(-1)[: len(curve)]
    start = min(START_BIAS_POINTS, len(curve))
    totals[:start] /= 1 - weight ** np.arange(1, start + 1)
    return Curve(curve.steps, totals)


def thin_curve(points: Sequence[CurvePoint], limit: int = MAX_POINTS) -> Curve:
    """At most `limit` points (at least 4): the first, the last, and the lowest and highest of each stretch between."""
    curve = Curve.of(points)
    if len(curve) <= limit:
        return curve
    stretches = (limit - 2) // 2
    bounds = 1 + (len(curve) - 2) * np.arange(stretches + 1) // stretches
    kept = [0]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = curve.values[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    kept.append(len(curve) - 1)
    return Curve(curve.steps[kept], curve.values[kept])

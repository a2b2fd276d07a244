"""Watch the loss: the first step at which it was NaN or infinite, and whether training does worse than guessing.

Nothing here decides what to do about it.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

import torch
from torch import Tensor

EXPLOSION_WINDOW = 5
"""Logged losses in a row whose median is judged, so that one bad batch does not end a run."""
EXPLOSION_FACTOR = 3.0
"""Times the loss of guessing (log of the vocabulary) and of the first log: no useful training comes near it."""


class LossWatch:
    """Record the first step whose loss was NaN or infinite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def record_loss(self, loss: Tensor, step: int) -> None:
        """Record the loss of one batch of optimizer step `step`, counted from 1."""
        first = torch.full((), -1, device=loss.device) if self._first is None else self._first
        broken = ~torch.isfinite(loss.detach()).all()
        # stays on the device: reading the value here would make every step wait for the GPU
        self._first = torch.where(broken & (first < 0), step, first)

    def first_non_finite_step(self) -> int | None:
        """Return the step, or None while every loss was finite. Waits for the device."""
        first = -1 if self._first is None else int(self._first.item())
        return first if first >= 0 else None


class ExplosionDetector:
    """Detect a loss that has grown far beyond guessing.

    A loss has exploded when the median of the last EXPLOSION_WINDOW logs is more than EXPLOSION_FACTOR times both the
    loss of guessing every token alike and the first logged loss. vocabulary: tokens that the model chooses from.
    """

    def __init__(self, vocabulary: int) -> None:
        self._guessing = math.log(max(2, vocabulary))
        self._recent: deque[float] = deque(maxlen=EXPLOSION_WINDOW)
        self._begin: float | None = None

    def is_exploding(self, loss: float) -> bool:
        """Record one logged loss, in nats a token, and return whether the loss has exploded."""
        if self._begin is None:
            self._begin = loss
        self._recent.append(loss)
        if len(self._recent) < EXPLOSION_WINDOW:
            return False
        return statistics.median(self._recent) > EXPLOSION_FACTOR * max(self._guessing, self._begin)

"""Watches the loss: the first step at which it was no number, and whether training does worse than guessing.

Costs no waiting for the GPU: what was seen stays on the device until somebody asks. Decides nothing; what to do about
it is `callback.py`'s.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

import torch
from torch import Tensor

EXPLOSION_WINDOW = 5
EXPLOSION_FACTOR = 3.0


class LossWatch:
    """The first step whose loss was NaN or infinite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """The loss of one batch of optimizer step `step`, counted from 1."""
        first = torch.full((), -1, device=loss.device) if self._first is None else self._first
        broken = ~torch.isfinite(loss.detach()).all()
        self._first = torch.where(broken & (first < 0), step, first)

    def first(self) -> int | None:
        """None while every loss was a number. Waits for the device."""
        found = -1 if self._first is None else int(self._first.item())
        return found if found >= 0 else None


class ExplosionDetector:
    """Whether the logged loss has left all sense: WORSE times what guessing every token alike would cost, and WORSE
    times where it began, as the median of WINDOW logs in a row.

    vocabulary: tokens that the model chooses from.
    """

    def __init__(self, vocabulary: int) -> None:
        self._guessing = math.log(max(2, vocabulary))
        self._recent: deque[float] = deque(maxlen=EXPLOSION_WINDOW)
        self._begin: float | None = None

    def see(self, loss: float) -> bool:
        if self._begin is None:
            self._begin = loss
        self._recent.append(loss)
        if len(self._recent) < EXPLOSION_WINDOW:
            return False
        return statistics.median(self._recent) > EXPLOSION_FACTOR * max(self._guessing, self._begin)

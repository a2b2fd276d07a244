"""The ids of runs: they sort by time and are names of folders. Knows no file."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

ID_PATTERN = re.compile(r"[a-z0-9-]{1,40}")
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def make_timed_id(now: float) -> str:
    """An id that sorts by time: "20261123-235501-ab1x" is date, time (UTC), the fraction in 1/46656 s and a letter."""
    stamp = datetime.fromtimestamp(now, UTC)
    ticks = int(now % 1 * 36**3)
    fraction = _BASE36[ticks // 1296] + _BASE36[ticks // 36 % 36] + _BASE36[ticks % 36]
    return f"{stamp:%Y%m%d-%H%M%S}-{fraction}{secrets.choice(_BASE36)}"


def is_valid_id(text: str) -> bool:
    """Whether `text` can be an id, and so is safe as a name."""
    return ID_PATTERN.fullmatch(text) is not None

"""Ids of runs. They sort by time and are valid folder names."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

ID_PATTERN = re.compile(r"[a-z0-9-]{1,40}")
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def make_timed_id(now: float) -> str:
    """Return an id for the time `now` (Unix seconds), such as "20261123-235501-ab1x".

    It consists of the date, the time (UTC), the fraction of the second in units of 1/46656 s (base 36, three
    characters), and a random character.
    """
    stamp = datetime.fromtimestamp(now, UTC)
    ticks = int(now % 1 * 36**3)
    fraction = _BASE36[ticks // 1296] + _BASE36[ticks // 36 % 36] + _BASE36[ticks % 36]
    return f"{stamp:%Y%m%d-%H%M%S}-{fraction}{secrets.choice(_BASE36)}"


def is_valid_id(text: str) -> bool:
    """Return whether `text` is a valid id and therefore safe as a file name."""
    return ID_PATTERN.fullmatch(text) is not None

"""Ids of runs, which sort by time and are valid folder names; and random orders that can be drawn again."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

ID_PATTERN = re.compile(r"[a-z0-9-]{1,40}")
MAX_SHUFFLED = 10_000
"""Up to so many places are shuffled; of more, single ones are drawn."""
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


def draw_places(total: int, seed: str) -> Iterator[int]:
    """Yield 0 to total - 1 in an order that follows from the seed; cheap for the first ones of very many."""
    source = random.Random(seed)  # noqa: S311 - no secret
    if total <= MAX_SHUFFLED:
        yield from source.sample(range(total), total)
        return
    seen: set[int] = set()
    while len(seen) < total:
        place = source.randrange(total)
        if place not in seen:
            seen.add(place)
            yield place

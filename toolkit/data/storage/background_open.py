"""Datasets opened in the background: one thread for each, found again by every page, tab and refresh of this app.

A small file is waited for. A big one goes on by itself: whoever asked hears how far it is, and asks again. Knows no
format and no screen.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.data.progress import Watch
from toolkit.data.read_options import read_options
from toolkit.data.storage.open_table import open_table
from toolkit.data.storage.uploads import original_file_name
from toolkit.data.table import Table
from toolkit.errors import DataError

BIG_FILE_BYTES = 30_000_000
"""Bytes; a smaller file is read within a moment."""
FILE_OPEN_WAIT_S, HUB_OPEN_WAIT_S = 0.5, 5.0
"""For a big file, and for a dataset of which nobody knows how big it is."""

logger = logging.getLogger(__name__)
_lock = threading.Lock()
_running: dict[str, DatasetOpening] = {}


@dataclass(eq=False)
class DatasetOpening:
    """One dataset being opened; `table` or `error` is set when `over`. Threads share it: read, don't write."""

    key: str
    label: str
    table: Table | None = None
    error: DataError | None = None
    over: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    _words: str = "starting"
    _share: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> tuple[float, str, float | None]:
        """(share done of what it is at, what that is, seconds left of it; None while nobody can tell)."""
        share, spent = self._share, time.monotonic() - self._since
        left = spent * (1 - share) / share if share > 0.03 and spent > 1 else None
        return share, self._words, left

    def record_progress(self, share: float, words: str) -> None:
        """What the work tells. A new step begins a new count of time."""
        if words != self._words:
            self._words, self._since = words, time.monotonic()
        self._share = share


class StillOpeningError(DataError):
    """It takes longer: `opening` says how far it is. Ask again."""

    def __init__(self, opening: DatasetOpening) -> None:
        share, words, _ = opening.progress
        super().__init__(f"{opening.label} is still being opened ({words}, {share:.0%}).", "Wait a moment.")
        self.opening = opening


def open_or_wait(data: DataConfig, save_dir: Path) -> Table:
    """The table that the settings name. Raises what `open_table` does, and StillOpening when it takes longer."""
    one = request_opening(data, save_dir)
    patience = None if _is_small(data) else HUB_OPEN_WAIT_S if data.file_type == "huggingface" else FILE_OPEN_WAIT_S
    if not one.over.wait(patience):
        raise StillOpeningError(one)
    with _lock:  # the next one asks the disk again
        _running.pop(one.key, None)
    if one.error is not None:
        raise one.error
    assert one.table is not None
    return one.table


def request_opening(data: DataConfig, save_dir: Path) -> DatasetOpening:
    """The one that is going on for these settings, or a new one."""
    content = (str(data.file_type), str(data.path), str(data.test_path), repr(read_options(data)), str(save_dir))
    key = "\0".join(content)
    with _lock:
        known = _running.get(key)
        if known is None:
            known = _running[key] = DatasetOpening(key, original_file_name(Path(str(data.path))))
            threading.Thread(
                target=_run_opening, args=(known, data, save_dir), name="open-dataset", daemon=True
            ).start()
        return known


def cancel_opening(one: DatasetOpening) -> None:
    """Stop it: nobody wants it any more."""
    one.stop.set()
    with _lock:
        _running.pop(one.key, None)


def _run_opening(one: DatasetOpening, data: DataConfig, save_dir: Path) -> None:
    try:
        one.table = open_table(data, save_dir, Watch(one.record_progress, one.stop))
    except DataError as error:
        one.error = error
    except Exception as error:  # a thread has nobody above it: the page tells
        logger.exception("opening %s broke off", one.label)
        one.error = DataError(f"The data could not be opened: {type(error).__name__}: {error}.", "See the app's log.")
    finally:
        one.over.set()


def _is_small(data: DataConfig) -> bool:
    if data.file_type == "huggingface":
        return False
    files = [Path(str(path)) for path in (data.path, data.test_path) if path is not None]
    return sum(file.stat().st_size for file in files if file.is_file()) < BIG_FILE_BYTES

"""Open datasets in the background: one thread for each, shared by all pages, tabs and reruns of this app.

The caller waits for a small file. For a large one it gets StillOpeningError with the progress, and asks again.
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
from toolkit.data.storage.stored_names import original_file_name
from toolkit.data.table import Table
from toolkit.errors import DataError

BIG_FILE_BYTES = 30_000_000
"""A smaller file is read in about a second, so that the page waits for it without showing progress."""
FILE_OPEN_WAIT_S, HUB_OPEN_WAIT_S = 0.5, 5.0
"""Seconds to wait for a large file, and for a dataset from the hub, whose size is unknown."""

logger = logging.getLogger(__name__)
_lock = threading.Lock()
_running: dict[str, DatasetOpening] = {}


@dataclass(eq=False)
class DatasetOpening:
    """A dataset that is being opened. `table` or `error` is set once `over` is set. Shared by threads: don't write."""

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
        """(share done of the current step, its name, its remaining seconds or None while they are unknown)."""
        share, spent = self._share, time.monotonic() - self._since
        # an estimate from less than 3 % or a second would jump
        remaining = spent * (1 - share) / share if share > 0.03 and spent > 1 else None
        return share, self._words, remaining

    def record_progress(self, share: float, words: str) -> None:
        """Store what the work reports. A new step restarts the time estimate."""
        if words != self._words:
            self._words, self._since = words, time.monotonic()
        self._share = share


class StillOpeningError(DataError):
    """The dataset is not open yet. `opening` has the progress; call again later."""

    def __init__(self, opening: DatasetOpening) -> None:
        share, words, _ = opening.progress
        super().__init__(f"{opening.label} is still being opened ({words}, {share:.0%}).", "Wait a moment.")
        self.opening = opening


def open_or_wait(data: DataConfig, save_dir: Path) -> Table:
    """Return the table that the settings name.

    Raises what `open_table` raises, and StillOpeningError when it takes longer than a page should wait.
    """
    opening = request_opening(data, save_dir)
    wait_s = None if _is_small(data) else HUB_OPEN_WAIT_S if data.file_type == "huggingface" else FILE_OPEN_WAIT_S
    if not opening.over.wait(wait_s):
        raise StillOpeningError(opening)
    with _lock:  # the next request looks at the disk again
        _running.pop(opening.key, None)
    if opening.error is not None:
        raise opening.error
    assert opening.table is not None
    return opening.table


def request_opening(data: DataConfig, save_dir: Path) -> DatasetOpening:
    """Return the opening in progress for these settings, or start one."""
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


def cancel_opening(opening: DatasetOpening) -> None:
    """Stop an opening whose table is no longer needed."""
    opening.stop.set()
    with _lock:
        _running.pop(opening.key, None)


def _run_opening(opening: DatasetOpening, data: DataConfig, save_dir: Path) -> None:
    try:
        opening.table = open_table(data, save_dir, Watch(opening.record_progress, opening.stop))
    except DataError as error:
        opening.error = error
    except Exception as error:  # nothing above a thread would show it: the page that waits does
        logger.exception("opening %s failed", opening.label)
        message = f"The data could not be opened: {type(error).__name__}: {error}."
        opening.error = DataError(message, "The app's log has the details.")
    finally:
        opening.over.set()


def _is_small(data: DataConfig) -> bool:
    if data.file_type == "huggingface":
        return False
    files = [Path(str(path)) for path in (data.path, data.test_path) if path is not None]
    return sum(file.stat().st_size for file in files if file.is_file()) < BIG_FILE_BYTES

"""What serving processes share: a new one begins when the one before has let go."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from toolkit.runs import service
from toolkit.runs.lock import is_held, try_lock
from toolkit.runs.warm_process import WARM


def test_a_start_waits_for_a_lock_that_a_killed_one_still_holds(tmp_path: Path) -> None:
    lock = WARM.file(tmp_path, "lock")
    lock.parent.mkdir(parents=True)
    handle = try_lock(lock)
    assert handle is not None
    assert is_held(lock)
    threading.Timer(0.3, os.close, [handle]).start()
    service._wait_until_free(WARM, tmp_path)
    assert not is_held(lock)

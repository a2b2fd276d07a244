"""A service process starts only after its predecessor has released its lock."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from toolkit.services import service_process
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.system.locks import is_lock_held, try_lock


def test_a_start_waits_for_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    lock = WARM_SERVICE.file(tmp_path, "lock")
    lock.parent.mkdir(parents=True)
    handle = try_lock(lock)
    assert handle is not None
    assert is_lock_held(lock)
    threading.Timer(0.3, os.close, [handle]).start()
    service_process._wait_for_lock_release(WARM_SERVICE, tmp_path)
    assert not is_lock_held(lock)

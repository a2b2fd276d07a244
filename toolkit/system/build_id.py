"""Whether a process that has imported the libraries may stay: it is stale once code has changed, too much once memory
runs short. Knows no process.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import time
from pathlib import Path

from toolkit.system.paths import PROJECT_ROOT

BUILD_ID_CACHE_SECONDS = 2.0
_CACHED_BUILD_ID: list[tuple[float, str]] = []


def build_id() -> str:
    """Differs once this code or an installed package has changed: what was imported before is then stale."""
    if _CACHED_BUILD_ID and time.monotonic() - _CACHED_BUILD_ID[0][0] < BUILD_ID_CACHE_SECONDS:
        return _CACHED_BUILD_ID[0][1]
    files = sorted((PROJECT_ROOT / "toolkit").rglob("*.py"))
    stamps = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    packages = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns  # installing a package renames in here
    found = hashlib.sha256(repr((stamps, packages)).encode()).hexdigest()[:16]
    _CACHED_BUILD_ID[:] = [(time.monotonic(), found)]
    return found


def installation_id() -> str:
    """Tells this code's folder and Python's environment from others."""
    return hashlib.sha256(f"{PROJECT_ROOT}\0{sys.prefix}".encode()).hexdigest()[:8]

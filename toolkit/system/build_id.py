"""Identifiers of the code that a long-lived process has imported, to detect when it is out of date."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import time
from pathlib import Path

from toolkit.system.paths import PROJECT_ROOT

BUILD_ID_CACHE_SECONDS = 2.0
"""Every page load asks for the id, and computing it reads the metadata of several hundred files."""
_CACHED_BUILD_ID: list[tuple[float, str]] = []


def build_id() -> str:
    """Return an id that changes with this code and with the installed packages."""
    if _CACHED_BUILD_ID and time.monotonic() - _CACHED_BUILD_ID[0][0] < BUILD_ID_CACHE_SECONDS:
        return _CACHED_BUILD_ID[0][1]
    files = sorted((PROJECT_ROOT / "toolkit").rglob("*.py"))
    stamps = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    packages = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns  # installing a package changes this folder
    found = hashlib.sha256(repr((stamps, packages)).encode()).hexdigest()[:16]
    _CACHED_BUILD_ID[:] = [(time.monotonic(), found)]
    return found


def installation_id() -> str:
    """Return an id of this installation: the folder of its code, and its Python environment."""
    return hashlib.sha256(f"{PROJECT_ROOT}\0{sys.prefix}".encode()).hexdigest()[:8]

"""transformers 4.57 in a folder of its own, installed once per machine: what other tools of the last year read with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import answer_elsewhere
from tests.fakes.real_model import machine_folder
from tests.fakes.training import ROOT
from toolkit.system.locks import wait_for_lock

REQUIREMENTS = ROOT / "requirements-older.txt"
INSTALL_SECONDS, ANSWER_SECONDS = 300, 280
"""Far above what either takes: a busy machine must not fail a test."""


def install_older_transformers() -> Path:
    """Return the folder with the packages. Skips the test where pip can't fetch them, unless REQUIRE_REAL_MODEL."""
    place = machine_folder()
    folder = place / f"older-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    with wait_for_lock(place / ".older.lock"):
        if folder.exists():
            return folder
        staging = place / ".installing"
        shutil.rmtree(staging, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-compile", "--target", str(staging), "-r", str(REQUIREMENTS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode:
            reason = f"pip can't install {REQUIREMENTS.name}: {done.stderr[-300:]}"
            assert not os.environ.get("REQUIRE_REAL_MODEL"), reason
            pytest.skip(reason)
        staging.rename(folder)
    return folder


def answer_with(folder: Path, exports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what tests/fakes/answer_elsewhere.py prints with the packages in `folder` before all others."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(answer_elsewhere.__file__)],
        input=json.dumps(exports),
        capture_output=True,
        text=True,
        env=environment,
        timeout=ANSWER_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found

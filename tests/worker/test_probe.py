"""What the probe reports about this machine, as system/machine.py reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.worker


def test_the_probe_prints_one_line_of_json() -> None:
    import torch

    command = [sys.executable, "-m", "toolkit.worker.probe"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip())
    assert found["cpu_count"] == len(os.sched_getaffinity(0))
    assert found["memory_bytes"] > 2**28
    assert found["cuda"] == torch.cuda.is_available()
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["versions"]["torch"] == torch.__version__
    assert found["bitsandbytes"] is True

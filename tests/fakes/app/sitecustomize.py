"""The real app and command line with the fake worker: Python imports this at its start when PYTHONPATH names it."""

from __future__ import annotations

import sys
from pathlib import Path

if {"streamlit", "toolkit"} & set(sys.orig_argv):
    sys.path.insert(0, str(Path.cwd()))

    from toolkit.runs import worker_process

    worker_process.TRAINING_MODULE = "tests.fakes.worker"
    sys.path.pop(0)

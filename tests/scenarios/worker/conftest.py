"""The fixtures of tests about the training worker."""

from __future__ import annotations

from tests.worker.conftest import save_dir

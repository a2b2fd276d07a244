"""Fixture: the fine-tuning API without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.fine_tuning_api import ApiWithoutProcesses
from toolkit.data.doctor import examinations


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ApiWithoutProcesses:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(examinations, "EXAMINE_DELAY_S", 0.0)  # nobody types here
    return ApiWithoutProcesses(tmp_path / "save")

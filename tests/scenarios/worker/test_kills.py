"""After fifty `kill -9` at random moments every run ends with the weights and the curve of an uninterrupted one.

`benchmarks/kills.py` is the long version and prints the figures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import campaign

pytestmark = pytest.mark.worker


@pytest.mark.timeout(1800)
def test_fifty_random_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    score = campaign(tmp_path, kills=50, seed=7, seconds=1500)
    assert score.perfect, score
    assert score.kills == 50
    assert score.verified_steps > 0

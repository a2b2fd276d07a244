"""The state of an evaluation, from its events and its locks."""

from __future__ import annotations

from pathlib import Path

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.progress import read_evaluation_progress
from toolkit.runs.run_dir import RunDir
from toolkit.system.locks import hold_lock


def test_an_evaluation_that_is_being_started_is_running(tmp_path: Path) -> None:
    evaluation = Evaluation(RunDir(tmp_path), "one")
    evaluation.path.mkdir(parents=True)
    assert read_evaluation_progress(evaluation).state == "new"
    with hold_lock(evaluation.path / "start.lock"):
        assert read_evaluation_progress(evaluation).is_running, "a page drawn in this moment must look again"
    assert read_evaluation_progress(evaluation).state == "new"

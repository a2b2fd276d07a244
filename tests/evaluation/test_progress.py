"""What an evaluation is doing, from its events and its locks."""

from __future__ import annotations

from pathlib import Path

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.progress import START_LOCK_FILE, read_evaluation_progress
from toolkit.runs.run_dir import RunDir
from toolkit.system.locks import hold_lock


def test_one_that_is_being_started_is_going(tmp_path: Path) -> None:
    evaluation = Evaluation(RunDir(tmp_path), "one")
    evaluation.path.mkdir(parents=True)
    assert read_evaluation_progress(evaluation).state == "new"
    with hold_lock(evaluation.path / START_LOCK_FILE):
        assert read_evaluation_progress(evaluation).going, "a page drawn in this moment would never look again"
    assert read_evaluation_progress(evaluation).state == "new"

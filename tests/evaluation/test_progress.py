"""What an evaluation is doing, from its events and its locks."""

from __future__ import annotations

from pathlib import Path

from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.progress import STARTING, progress
from toolkit.runs.run_dir import RunDir
from toolkit.system.locks import locked


def test_one_that_is_being_started_is_going(tmp_path: Path) -> None:
    evaluation = Evaluation(RunDir(tmp_path), "one")
    evaluation.path.mkdir(parents=True)
    assert progress(evaluation).state == "new"
    with locked(evaluation.path / STARTING):
        assert progress(evaluation).going, "a page drawn in this moment would never look again"
    assert progress(evaluation).state == "new"

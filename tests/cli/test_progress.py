"""The lines at the end of a run."""

from __future__ import annotations

from pathlib import Path

from toolkit.cli.progress import describe_run_end
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus


def test_a_run_whose_answers_could_not_be_made_does_not_finish_like_any_other(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "r")
    reason = "The test rows could not be answered (IndexError: index out of range in self). The adapter is saved."
    lines = describe_run_end(run, RunStatus("finished", step=3, adapter_ready=True, unanswered=(reason,))).splitlines()
    assert "3 steps, but not all answers could be made." in lines[0] and lines[1] == reason
    assert "but not all" not in describe_run_end(run, RunStatus("finished", step=3, adapter_ready=True))

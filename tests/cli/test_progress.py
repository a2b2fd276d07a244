"""The lines at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from toolkit.cli.progress import describe_run_end, show_run_progress
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus


def test_a_run_whose_answers_could_not_be_made_does_not_finish_like_any_other(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "r")
    reason = "The test rows could not be answered (IndexError: index out of range in self). The adapter is saved."
    lines = describe_run_end(run, RunStatus("finished", step=3, adapter_ready=True, unanswered=(reason,))).splitlines()
    assert "3 steps, but not all answers could be made." in lines[0] and lines[1] == reason
    assert "but not all" not in describe_run_end(run, RunStatus("finished", step=3, adapter_ready=True))


def test_a_phase_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=120)
    with show_run_progress(RunDir(tmp_path / "runs" / "r"), shown) as show:
        show(RunStatus("running", phase="[/x] [link=http://evil.example]a[/link]", total_steps=2, step=1), 0)
    assert isinstance(shown.file, io.StringIO)
    assert "[/x] [link=http://evil.example]a[/link]" in shown.file.getvalue()

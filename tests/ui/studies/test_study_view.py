"""The labels of a study's runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.settings.draft import default_draft
from toolkit.ui.studies.study_view import label_study_runs
from toolkit.ui.workspace.run_entries import RunEntry
from toolkit.ui.workspace.run_facts import RunSummary


def test_runs_of_a_study_that_was_queued_twice_get_unique_labels() -> None:
    runs = [("20260105-120000-aaaa", 8), ("20260105-120001-bbbb", 16), ("20260106-120000-cccc", 8)]
    found = [
        RunEntry(
            RunDir(Path(name)),
            RunSummary("x", datetime(2026, 1, 5), "s", {"lora.r": r}, {}, default_draft()),
            RunStatus("finished"),
        )
        for name, r in runs
    ]
    by_label = label_study_runs(found)
    assert list(by_label.values()) == found
    assert "LoRA rank (r) 16" in by_label

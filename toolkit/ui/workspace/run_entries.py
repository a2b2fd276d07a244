"""Runs with their summary and status, as the lists of runs show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.config import BUNDLED
from toolkit.errors import ToolkitError
from toolkit.runs.kept_facts import write_kept_facts
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import RunSummary, read_run_summary


@dataclass(frozen=True)
class RunEntry:
    """A run whose files can be read, with its summary (`facts`) and status."""

    run: RunDir
    facts: RunSummary
    status: RunStatus

    @property
    def label(self) -> str:
        return f"{self.facts.name} · {self.facts.created:%d %b %H:%M}"


def label_runs(entries: Sequence[RunEntry]) -> dict[str, str]:
    """Return a different label for each run, by its id: runs of the same minute may have the same name."""
    return distinguish_labels({entry.run.id: entry.label for entry in entries})


def is_first_visit() -> bool:
    """Return whether there is no run yet and the user has not chosen a dataset."""
    chosen = str(workspace.current_setting("data.path"))
    return chosen.startswith(BUNDLED) and not list_runs(workspace.current_save_dir())


def read_run_entries(runs: Sequence[RunDir]) -> tuple[list[RunEntry], list[ToolkitError]]:
    """Return the entries of the runs that can be read, and the errors of the others."""
    entries, errors = [], []
    for run in runs:
        try:
            entries.append(RunEntry(run, read_run_summary(run), read_run_status(run)))
        except ToolkitError as error:
            errors.append(error)
    if entries:
        write_kept_facts(str(entries[0].run.path.parent))
    return entries, errors

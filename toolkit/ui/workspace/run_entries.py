"""Runs with what the lists of runs need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.ui.workspace.run_facts import RunSummary, read_run_summary


@dataclass(frozen=True)
class RunEntry:
    """A run with all that the lists need; only whole runs become entries."""

    run: RunDir
    facts: RunSummary
    status: RunStatus

    @property
    def label(self) -> str:
        return f"{self.facts.name} · {self.facts.created:%d %b %H:%M}"


def read_run_entries(runs: Sequence[RunDir]) -> tuple[list[RunEntry], list[ToolkitError]]:
    """The runs that can be read, and why the others can't."""
    whole, broken = [], []
    for run in runs:
        try:
            whole.append(RunEntry(run, read_run_summary(run), read_run_status(run)))
        except ToolkitError as error:
            broken.append(error)
    return whole, broken

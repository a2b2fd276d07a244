"""Runs with their summary and status, as the lists of runs show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from toolkit.config import BUNDLED
from toolkit.errors import ToolkitError
from toolkit.runs.kept_facts import write_kept_facts
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import RunStatus, has_last_event, read_run_status
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_facts import RunSummary, read_run_summary

MAX_OFFERED_RUNS = 500
ALL_RUNS = "all_runs_offered"
"""Key of the session: whether the pages read and offer every run."""


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


def list_offered_runs() -> list[RunDir]:
    """Return the newest runs, newest first, with the chosen one and those that have not ended; all if asked for.

    Reading thousands of them takes seconds at the first visit, and the browser shows the newest anyway.
    """
    runs = list_runs(workspace.current_save_dir())
    if st.session_state.get(ALL_RUNS):
        return runs
    chosen, older = workspace.chosen_run_id(), runs[MAX_OFFERED_RUNS:]
    return runs[:MAX_OFFERED_RUNS] + [run for run in older if run.id == chosen or not has_last_event(run)]


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


def read_runs_with_adapter() -> tuple[list[RunEntry], list[RunEntry]]:
    """Return the offered runs that have an adapter, and all offered runs; if none has one, all runs are read."""
    for runs in (list_offered_runs(), list_runs(workspace.current_save_dir())):
        entries, _ = read_run_entries(runs)
        if found := [entry for entry in entries if entry.status.adapter_ready]:
            return found, entries
    return [], entries

"""From a reviewed draft to queued runs, once for each press of Start.

The Start button carries a ticket that starts runs once: a second press, in this tab or another, starts nothing.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.config import Config
from toolkit.data.read_options import source_key
from toolkit.data.table import Table
from toolkit.errors import ConfigError
from toolkit.forecast.decisions import DecidedSettings
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.run_dir import RunDir, create_run, save_dir_of
from toolkit.settings.ablation import StudyTrial, ValueGrid
from toolkit.studies.methods.advance import advance_study
from toolkit.studies.question import ask_study, hash_trial_content
from toolkit.studies.start import PlannedRun, start_study
from toolkit.system.machine import Machine, probe_machine, read_known_machine
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings, open_run_table

_START_TICKET = "start_ticket"
_MAX_NAME_CHARACTERS = 200


def start_ticket() -> str:
    """Return the ticket of the Start button on screen; there is a new one after each start."""
    return str(st.session_state.setdefault(_START_TICKET, secrets.token_hex(8)))


def claim_start(ticket: str) -> bool:
    """Return True for the first press with this ticket in any tab, and False for every later one."""
    lock, used = _used_tickets()
    with lock:
        is_first = ticket not in used
        used.add(ticket)
    return is_first


def renew_start_ticket() -> None:
    """Give the Start button a new ticket."""
    st.session_state.pop(_START_TICKET, None)


def start_runs(
    trials: Sequence[StudyTrial], decided: Sequence[DecidedSettings], name: str, study: str, ticket: str
) -> list[RunDir]:
    """Queue a run for each trial, once for a ticket; return no runs for a later press of the same button.

    Trials of a study that have a run already are not trained again.

    decided: for each trial, its settings as the forecast has decided them.
    Raises: ConfigError, DataError or RunError. No run is queued then, except for an error of the disk, which keeps the
    runs that were queued before it.
    """
    # an empty or default save_dir means the app's own folder, where the app looks for runs
    folder = str(workspace.current_save_dir())
    asked = StudyRequest(study, name, workspace.current_draft(), workspace.current_grid())
    # from here on nothing reads the session or draws: a second press would interrupt the script there, halfway
    # through the runs of a study
    return _queue_runs(trials, decided, asked, folder) if claim_start(ticket) else []


@dataclass(frozen=True)
class StudyRequest:
    """What is started: a study with these settings, or a single run while study is "". name: prefix of the labels."""

    study: str
    name: str
    draft: Mapping[str, Any]
    grid: ValueGrid


def _queue_runs(
    trials: Sequence[StudyTrial], decided: Sequence[DecidedSettings], asked: StudyRequest, folder: str
) -> list[RunDir]:
    configs = [one.config.model_copy(update={"save_dir": folder}) for one in decided]
    # every run is checked before the first one is queued, so that an error leaves no half of a study
    tables = _checked_tables(configs)
    table_of = [tables[source_key(config.data)] for config in configs]
    if asked.study and (len(trials) > 1 or trials[0].settings):
        started = _queue_study(trials, decided, configs, table_of, asked)
    else:
        started = [
            create_run(
                configs[0],
                table_of[0],
                name=asked.name[:_MAX_NAME_CHARACTERS],
                chosen=decided[0].reasons,
                memory_bytes=decided[0].memory_bytes,
            )
        ]
    page.get_supervisor(folder).check_now()
    return started


def _queue_study(
    trials: Sequence[StudyTrial],
    decided: Sequence[DecidedSettings],
    configs: Sequence[Config],
    tables: Sequence[Table],
    asked: StudyRequest,
) -> list[RunDir]:
    """Queue the trials that have no run yet, and resume those that were stopped."""
    planned: dict[str, PlannedRun] = {}
    repeated = len({trial.config.training.training_args.seed for trial in trials}) > 1
    for trial, one, config, table in zip(trials, decided, configs, tables, strict=True):
        seed = f"seed {config.training.training_args.seed}" if repeated else ""
        values = ", ".join(part for part in (describe_settings(trial.settings), seed) if part)
        label = ": ".join(part for part in (asked.name, values) if part)
        content = hash_trial_content(trial.config, table.sha256)
        planned[content] = PlannedRun(config, table, label[:_MAX_NAME_CHARACTERS], one.reasons, one.memory_bytes)
    datasets = [table.sha256 for table in tables]
    question = ask_study(asked.study, trials, datasets, asked.draft, asked.grid)
    folder = Path(configs[0].save_dir or ".")
    queued, _ = start_study(folder, question, planned.__getitem__)
    # all trials that were planned before may have ended
    return [*queued, *advance_study(folder, asked.study, restore=True)]


def _checked_tables(configs: Sequence[Config]) -> dict[str, Table]:
    """Return the table of each `source_key`; raise ConfigError with every problem that would make a run fail."""
    tables: dict[str, Table] = {}
    problems = []
    for config in configs:
        source = source_key(config.data)
        if source not in tables:
            tables[source] = open_run_table(config)
        found = preflight_problems(config, tables[source], _machine_for(config))
        problems += [problem for problem in found if problem.severity == "error"]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return tables


def _machine_for(config: Config) -> Machine | None:
    """Return this machine. Only settings that depend on it wait until it has been probed (seconds, once)."""
    folder = save_dir_of(config)
    return read_known_machine(folder) or (probe_machine(folder) if preflight_needs_machine(config) else None)


@st.cache_resource(show_spinner=False)
def _used_tickets() -> tuple[threading.Lock, set[str]]:
    return threading.Lock(), set()

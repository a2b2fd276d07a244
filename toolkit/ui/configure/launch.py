"""From a review to queued runs, once for each press of Start however often the button is hit.

A press carries the number of the button it came from; a number is good for one start. Draws nothing, so that Streamlit
has no place to break off between two runs of a study.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import streamlit as st

from toolkit.config import Config
from toolkit.data.read_options import source_key
from toolkit.data.table import Table
from toolkit.errors import ConfigError
from toolkit.forecast.decisions import decide_open_settings
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.run_dir import RunDir, create_run, save_dir_of
from toolkit.settings.ablation import StudyTrial
from toolkit.system.machine import Machine, probe_machine, read_known_machine
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import DraftReview, open_run_table, variant_name

_START_TICKET = "start_ticket"


def start_ticket() -> str:
    """The number of the Start button as it stands; a new one after each start."""
    return str(st.session_state.setdefault(_START_TICKET, secrets.token_hex(8)))


def claim_start(number: str) -> bool:
    """True for the first press with this number, in any tab; False for every later one."""
    lock, used = _used_tokens()
    with lock:
        first = number not in used
        used.add(number)
    return first


def renew_start_ticket() -> None:
    st.session_state.pop(_START_TICKET, None)


def start_runs(reviewed: DraftReview, name: str, study: str, number: str) -> list[RunDir]:
    """Queue every run of the review, once for a `number`; none for a later press of the same button.

    Raises ConfigError, DataError or RunError; then no run was queued, or the error came from the disk and the runs
    before it are there.
    """
    # an empty folder, or the default one, means the app's own: runs must be where the app looks for them
    folder = str(workspace.current_save_dir())
    # the session is not looked at from here on: a second press breaks the page off at such a look
    return _queue_runs(reviewed, name, study, folder) if claim_start(number) else []


def _queue_runs(reviewed: DraftReview, name: str, study: str, folder: str) -> list[RunDir]:
    variants = [replace(v, config=v.config.model_copy(update={"save_dir": folder})) for v in reviewed.variants]
    tables = _load_tables(variants)
    several = len(variants) > 1 or bool(variants[0].settings)
    # every run is settled before the first is queued: what fails here, fails before anything was started
    finals = [
        decide_open_settings(
            v.config, tables[source_key(v.config.data)], read_known_machine(Path(folder)), Path(folder)
        )
        for v in variants
    ]
    started = []
    for variant, final in zip(variants, finals, strict=True):
        own = ": ".join(part for part in (name, variant_name(variant)) if part) if several else name
        table = tables[source_key(variant.config.data)]
        settings = variant.settings if several else None
        started.append(
            create_run(
                final.config, table, name=own[:200], study=study if several else "", settings=settings,
                chosen=final.reasons,
            )
        )  # fmt: skip
    page.get_supervisor(folder).check_now()
    return started


def _load_tables(variants: Sequence[StudyTrial]) -> dict[str, Table]:
    """The table of each `source_key`, after a last look at every run; raises ConfigError with what would fail."""
    tables: dict[str, Table] = {}
    problems = []
    for variant in variants:
        source = source_key(variant.config.data)
        if source not in tables:
            tables[source] = open_run_table(variant.config)
        known = _known_machine(variant.config)
        problems += [p for p in preflight_problems(variant.config, tables[source], known) if p.severity == "error"]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return tables


def _known_machine(config: Config) -> Machine | None:
    """This machine; settings that depend on it wait until it is known (seconds, once)."""
    folder = save_dir_of(config)
    return read_known_machine(folder) or (probe_machine(folder) if preflight_needs_machine(config) else None)


@st.cache_resource(show_spinner=False)
def _used_tokens() -> tuple[threading.Lock, set[str]]:
    return threading.Lock(), set()

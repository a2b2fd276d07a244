"""Who can answer beside a run: other runs' adapters and kept checkpoints, all on one loaded base; and their names.

A model's name is `runs/model_names.py`'s, what people read is made here. Playground and evaluation offer the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.runs.model_names import checkpoints_of
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.services import engine_client
from toolkit.system.machine import Machine, machine_if_known
from toolkit.ui.workspace.run_entries import Entry


@st.cache_data(show_spinner=False, max_entries=1000)
def _base(folder: str, machine: Machine | None) -> str:
    """What two runs share when one loaded base serves both; "" for settings that can't be read."""
    try:
        return engine_client.base_key(read_config(RunDir(Path(folder))), machine)
    except ToolkitError:
        return ""


def beside(entry: Entry, found: Sequence[Entry]) -> dict[str, str]:
    """Name -> label of everything on the run's base but the run's own adapter: its checkpoints first."""
    machine = machine_if_known(entry.run.save_dir)
    mine = _base(str(entry.run.path), machine)
    names = {one.name: f"Step {one.step:,} of this run" for one in checkpoints_of(entry.run)}
    for other in found:
        if other.run.id == entry.run.id or _base(str(other.run.path), machine) != mine:
            continue
        if other.status.adapter_ready:
            names[other.run.id] = other.label
        names.update({one.name: f"{other.label} · step {one.step:,}" for one in checkpoints_of(other.run)})
    return names


def title(name: str, found: Sequence[Entry]) -> str:
    """What a model of any run is called where it stands among others; its name when the run is gone."""
    run_id, _, step = name.partition("@")
    known: Mapping[str, str] = {one.run.id: one.facts.name for one in found}
    called = known.get(run_id, run_id)
    return f"{called} · step {int(step):,}" if step else called

"""Who can answer beside a run: other runs' adapters and kept checkpoints, all on one loaded base; and their names.

A model's name is `runs/model_names.py`'s, what people read is made here. Playground and evaluation offer the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.runs.model_names import list_checkpoint_references
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.services import engine_client
from toolkit.system.machine import Machine, read_known_machine
from toolkit.ui.workspace.run_entries import RunEntry


@st.cache_data(show_spinner=False, max_entries=1000)
def _base_key(folder: str, machine: Machine | None) -> str:
    """What two runs share when one loaded base serves both; "" for settings that can't be read."""
    try:
        return engine_client.base_model_key(read_run_config(RunDir(Path(folder))), machine)
    except ToolkitError:
        return ""


def list_comparable_models(entry: RunEntry, found: Sequence[RunEntry]) -> dict[str, str]:
    """Name -> label of everything on the run's base but the run's own adapter: its checkpoints first."""
    machine = read_known_machine(entry.run.save_dir)
    mine = _base_key(str(entry.run.path), machine)
    names = {one.name: f"Step {one.step:,} of this run" for one in list_checkpoint_references(entry.run)}
    for other in found:
        if other.run.id == entry.run.id or _base_key(str(other.run.path), machine) != mine:
            continue
        if other.status.adapter_ready:
            names[other.run.id] = other.label
        names.update({one.name: f"{other.label} · step {one.step:,}" for one in list_checkpoint_references(other.run)})
    return names


def compared_model_title(name: str, found: Sequence[RunEntry]) -> str:
    """What a model of any run is called where it stands among others; its name when the run is gone."""
    run_id, _, step = name.partition("@")
    known: Mapping[str, str] = {one.run.id: one.facts.name for one in found}
    called = known.get(run_id, run_id)
    return f"{called} · step {int(step):,}" if step else called

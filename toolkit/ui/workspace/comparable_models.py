"""Models that can be compared with a run: adapters and kept checkpoints on the same base model, and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.runs.model_names import list_checkpoint_references
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.services import engine_client
from toolkit.system.machine import Machine, read_known_machine
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.workspace.run_entries import RunEntry, label_runs

_BASE_KEYS: dict[tuple[Path, str], str] = {}
"""Run's path and text of the machine -> base key. Its settings never change, and a page asks for 500 of them."""


def _base_key(run: RunDir, machine: Machine | None, named: str) -> str:
    """Return a key that is equal for runs that can share one loaded base model; "" if the settings can't be read.

    named: the text of the machine.
    """
    place = run.path, named
    if place not in _BASE_KEYS:
        try:
            _BASE_KEYS[place] = engine_client.base_model_key(read_run_config(run), machine)
        except ToolkitError:
            return ""
    return _BASE_KEYS[place]


def list_comparable_models(entry: RunEntry, found: Sequence[RunEntry]) -> dict[str, str]:
    """Return name -> label of every model on the run's base except the run's own adapter; its checkpoints first."""
    machine = read_known_machine(entry.run.save_dir)
    named = repr(machine)
    base_key = _base_key(entry.run, machine, named)
    labels = {one.name: f"Step {one.step:,} of this run" for one in list_checkpoint_references(entry.run)}
    run_labels = label_runs(found)
    for other in found:
        if other.run.id == entry.run.id or _base_key(other.run, machine, named) != base_key:
            continue
        if other.status.adapter_ready:
            labels[other.run.id] = run_labels[other.run.id]
        label = run_labels[other.run.id]
        labels.update({one.name: f"{label} · step {one.step:,}" for one in list_checkpoint_references(other.run)})
    return distinguish_labels(labels)


def compared_model_title(name: str, found: Sequence[RunEntry]) -> str:
    """Return the title of a model named "run" or "run@step" among others; the run's id if the run was deleted."""
    run_id, _, step = name.partition("@")
    run_names: Mapping[str, str] = {one.run.id: one.facts.name for one in found}
    title = run_names.get(run_id, run_id)
    return f"{title} · step {int(step):,}" if step else title

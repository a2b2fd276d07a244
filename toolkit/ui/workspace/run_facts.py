"""Summaries of runs from their own files: name, creation time, dataset and settings. Cached."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from toolkit.runs.kept_facts import FileStamp, keep_fact, recall_fact, stamp_file
from toolkit.runs.model_names import describe_run, label_dataset, short_model_name
from toolkit.runs.run_dir import RunDir, read_run_meta
from toolkit.settings.draft import default_draft, fill_defaults, replace_setting
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs
from toolkit.settings.yaml_file import load_draft, read_config_text

_KEPT_KIND = "summary"


@dataclass(frozen=True)
class RunSummary:
    """A run apart from its state.

    name: given by the user, or made from model and dataset. created: local time. settings: values that a study varied.
    dataset: label, rows and sha256 of the run's own table.
    config: the run's settings as a nested dict, as the user set them: those that Start decided are None.
    chosen: path of each setting that Start decided -> the reason.
    """

    name: str
    created: datetime
    study: str
    settings: dict[str, Any]
    dataset: dict[str, Any]
    config: dict[str, Any]
    chosen: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return short_model_name(str(self.config["model"]["hf_model_ckpt"]))

    @property
    def dataset_name(self) -> str:
        return label_dataset(self.dataset)

    @cached_property
    def changes(self) -> dict[str, Any]:
        """Path -> value of each setting that differs from the defaults, apart from save_dir."""
        return {path: value for path, _, value in config_differences(default_draft(), self.config)}


def read_run_summary(run: RunDir) -> RunSummary:
    """Read the summary of a run; its values are shared, so change none. Raises RunError or ConfigError."""
    folder = str(run.path)
    try:
        stamp = stamp_file(f"{folder}/run.json")
    except OSError:  # reading it explains why
        stamp = ()
    known = _SUMMARIES.get(folder)
    if known is None or known[0] != stamp:
        known = _SUMMARIES[folder] = (stamp, _recall_summary(run, stamp) or _read_summary(run, stamp))
    return known[1]


_SUMMARIES: dict[str, tuple[FileStamp, RunSummary]] = {}
"""The summary of each run that was read, with the stamp of its run.json, by the run's path."""


def _recall_summary(run: RunDir, stamp: FileStamp) -> RunSummary | None:
    found = recall_fact(str(run.path.parent), run.id, _KEPT_KIND, stamp)
    if found is None:
        return None
    kept = dict(found)
    created = datetime.fromtimestamp(kept.pop("created")).astimezone()
    return RunSummary(**{**kept, "config": _parse_config(kept["config"])}, created=created)


def _read_summary(run: RunDir, stamp: FileStamp) -> RunSummary:
    meta = read_run_meta(run)
    config = fill_defaults(load_draft(read_config_text(run.config_path)))
    chosen = {
        str(path): str(why) for path, why in dict(meta.get("chosen") or {}).items() if path in field_specs_by_path()
    }
    for path in chosen:
        config = replace_setting(config, path, None)
    kept: dict[str, Any] = {
        "name": describe_run(meta, str(config["model"]["hf_model_ckpt"])),
        "study": str(meta.get("study") or ""),
        "settings": dict(meta.get("settings") or {}),
        "dataset": dict(meta.get("dataset") or {}),
        "chosen": chosen,
    }
    created, text = float(meta["created"]), json.dumps(config)
    keep_fact(str(run.path.parent), run.id, _KEPT_KIND, stamp, {**kept, "created": created, "config": text})
    return RunSummary(**kept, created=datetime.fromtimestamp(created).astimezone(), config=_parse_config(text))


@lru_cache(maxsize=20_000)
def _parse_config(text: str) -> dict[str, Any]:
    """Return the settings of a JSON text; runs with the same settings share one object."""
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def flatten_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return dotted path -> value for every setting of the schema; None for one that the config does not have."""
    flat: dict[str, Any] = {}
    for spec in list_field_specs():
        value: Any = config
        for part in spec.path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        flat[spec.path] = value
    return flat


def config_differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (path, first value, second value) of every setting except save_dir in which two configs differ."""
    left, right = flatten_config(first), flatten_config(second)
    return [(path, left[path], right[path]) for path in left if left[path] != right[path] and path != "save_dir"]

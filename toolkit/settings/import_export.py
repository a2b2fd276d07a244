"""Settings as a YAML file and back, several values for a setting included.

All or nothing: a file whose settings can't be used changes nothing. Knows the file's form (`settings/yaml_file.py`) and
what a list means (`ablation.py`), not where a draft is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError, Problem
from toolkit.settings import ablation
from toolkit.settings import draft as drafts
from toolkit.settings.yaml_file import dump_draft, load_draft, read_config_text
from toolkit.system.paths import PRESETS


@dataclass(frozen=True)
class ImportedSettings:
    """A file's settings, usable as they are. `warnings` are remarks that block nothing."""

    draft: drafts.Draft
    grid: ablation.ValueGrid
    warnings: tuple[Problem, ...]


def import_settings(text: str) -> ImportedSettings:
    """Settings from YAML; a setting that the file lacks has its default. Raises ConfigError with every problem."""
    draft, grid = ablation.split_grid(load_draft(text))
    problems = ablation.check_value_grid(draft, grid)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    variants = ablation.expand_trials(draft, grid)
    # the values as validation read them: "1e-4", which YAML calls text, is the number
    settled = drafts.draft_from_config(variants[0].config)
    return ImportedSettings(settled, grid, tuple(problems))


def import_settings_file(path: Path) -> ImportedSettings:
    """`read` of a file; each problem names the setting or the file, and what to do."""
    try:
        return import_settings(read_config_text(path))
    except ConfigError as error:
        here = [_locate_in_file(found, path.name) for found in error.problems]
        raise ConfigError(here) from error


def _locate_in_file(found: Problem, name: str) -> Problem:
    where = found.path or ("" if name in found.message else name)
    return replace(found, path=where, hint=found.hint or f"Correct it in {name}.")


def export_settings(draft: Mapping[str, Any], grid: Mapping[str, Sequence[Any]] | None = None) -> str:
    """The draft as YAML, valid or not, with lists of values while ablation is on; `read` gives the same back."""
    used = {path: list(values) for path, values in (grid or {}).items()} if ablation.uses_ablation(draft) else {}
    return dump_draft(ablation.merge_grid(drafts.fill_defaults(draft), used))


def accept_hard_stops(draft: dict[str, Any], hard_stops: Sequence[str]) -> dict[str, Any]:
    """The draft with more hard stops accepted by name; which names there are is the schema's to say."""
    already = drafts.get_setting(draft, "data.accepted") or []
    return drafts.replace_setting(draft, "data.accepted", [*already, *hard_stops]) if hard_stops else draft


@dataclass(frozen=True)
class Preset:
    """`name` is the file's name without its ending; `settings` the nested dict as the file has it."""

    name: str
    title: str
    description: str
    settings: drafts.Draft
    path: Path


@cache
def load_presets() -> tuple[Preset, ...]:
    """Every preset, by file name. Raises ConfigError for a file that is not YAML."""
    return tuple(_read_preset(path) for path in sorted(PRESETS.glob("*.yml")))


def apply_preset(preset: Preset, draft: Mapping[str, Any]) -> drafts.Draft:
    """The preset over the defaults, with the draft's own data and folder where the preset has none."""
    kept = {name: draft[name] for name in ("data", "save_dir") if name in draft}
    return drafts.fill_defaults(
        drafts.overlay_settings(drafts.overlay_settings(drafts.default_draft(), kept), preset.settings)
    )


def _read_preset(path: Path) -> Preset:
    text = path.read_text(encoding="utf-8")
    said = dict(re.findall(r"^# (title|description): (.+)$", text, re.MULTILINE))
    return Preset(path.stem, said["title"], said["description"], load_draft(text), path)

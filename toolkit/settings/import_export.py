"""Import and export of settings as YAML, including studies, and the presets that ship with the toolkit.

An import is all or nothing: a file with invalid settings raises, and nothing of it is used.
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
    """Valid settings from a file. warnings: problems that do not block a run."""

    draft: drafts.Draft
    grid: ablation.ValueGrid
    warnings: tuple[Problem, ...]


def import_settings(text: str) -> ImportedSettings:
    """Return the settings of a YAML text; missing ones have their defaults. Raises ConfigError with every problem."""
    draft, grid = ablation.split_grid(load_draft(text))
    problems = ablation.check_value_grid(draft, grid)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    trials = ablation.expand_trials(draft, grid)
    # the values as validation read them: 1e-4 is text in YAML 1.1 and a number in the config
    checked = drafts.draft_from_config(trials[0].config)
    return ImportedSettings(checked, grid, tuple(problems))


def import_settings_file(path: Path) -> ImportedSettings:
    """Import a file. Raises ConfigError; each problem names the setting or the file, and what to do."""
    try:
        return import_settings(read_config_text(path))
    except ConfigError as error:
        problems = [_locate_in_file(problem, path.name) for problem in error.problems]
        raise ConfigError(problems) from error


def _locate_in_file(problem: Problem, name: str) -> Problem:
    location = problem.path or ("" if name in problem.message else name)
    return replace(problem, path=location, hint=problem.hint or f"Correct it in {name}.")


def export_settings(draft: Mapping[str, Any], grid: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Return the draft as YAML, valid or not. While ablation is on, settings with several values become lists."""
    used = {path: list(values) for path, values in (grid or {}).items()} if ablation.uses_ablation(draft) else {}
    return dump_draft(ablation.merge_grid(drafts.fill_defaults(draft), used))


def accept_hard_stops(draft: dict[str, Any], hard_stops: Sequence[str]) -> dict[str, Any]:
    """Return the draft with more blocking problems accepted, by name; validation checks the names."""
    accepted = drafts.get_setting(draft, "data.accepted") or []
    return drafts.replace_setting(draft, "data.accepted", [*accepted, *hard_stops]) if hard_stops else draft


@dataclass(frozen=True)
class Preset:
    """A preset. name: the file's name without its ending. settings: only those that the file names."""

    name: str
    title: str
    description: str
    settings: drafts.Draft
    path: Path


@cache
def load_presets() -> tuple[Preset, ...]:
    """Return every preset, sorted by file name. Raises ConfigError for a file that is not YAML."""
    return tuple(_read_preset(path) for path in sorted(PRESETS.glob("*.yml")))


PRESET_SECTIONS = ("model", "lora", "training")
"""What a preset changes in a draft. Its file may name a dataset too, so that the command line can run it."""


def apply_preset(preset: Preset, draft: Mapping[str, Any]) -> drafts.Draft:
    """Return the draft with model, LoRA and training settings of the preset, at their defaults where it names none."""
    base = drafts.default_draft()
    chosen = {name: drafts.overlay_settings(base[name], preset.settings.get(name) or {}) for name in PRESET_SECTIONS}
    return drafts.fill_defaults({**draft, **chosen})


def find_preset_changes(preset: Preset, draft: Mapping[str, Any]) -> list[drafts.SettingChange]:
    """Return the settings of the draft that the preset would change: their present and their new values."""
    return drafts.find_differences(draft, apply_preset(preset, draft))


def _read_preset(path: Path) -> Preset:
    text = path.read_text(encoding="utf-8")
    header = dict(re.findall(r"^# (title|description): (.+)$", text, re.MULTILINE))
    return Preset(path.stem, header["title"], header["description"], load_draft(text), path)

"""The study command: which config to train, and the verdict of a study on the terminal and in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from toolkit.cli.console import format_path, out, print_warnings
from toolkit.errors import ConfigError, Problem, RunError
from toolkit.evaluation.rule_process import parse_checked_rules
from toolkit.runs.run_dir import RunDir, is_run_approved, save_dir_of
from toolkit.runs.status import UNFINISHED
from toolkit.settings.draft import get_setting, replace_setting
from toolkit.settings.import_export import ImportedSettings, accept_hard_stops, import_settings_file
from toolkit.settings.validation import parse_draft
from toolkit.settings.yaml_file import load_draft, read_config_text
from toolkit.studies.methods.advance import advance_study
from toolkit.studies.objectives import RULES_OBJECTIVE
from toolkit.studies.outcomes import read_study
from toolkit.studies.report import format_study_html
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import describe_objective, describe_verdict, format_study_csv, tabulate_study
from toolkit.system.durable import durable_write
from toolkit.system.locks import is_lock_held


def is_config_target(target: str) -> bool:
    """Return whether the argument means a file to train, not the name of a study."""
    return Path(target).expanduser().is_file() or target.lower().endswith((".yml", ".yaml"))


def read_study_config(path: Path, options: Mapping[str, Any], accept: Sequence[str]) -> ImportedSettings:
    """Read the settings of a study. Raises ConfigError; also when no setting has several values.

    options: settings of the study by name, which replace those of the file unless they are None.
    """
    imported = import_settings_file(path)
    print_warnings(imported.warnings)
    if not imported.grid:
        message = "No setting has several values, so there is nothing to compare."
        hint = "Give a setting a list, for example r: [8, 16], and set ablation.use_ablate to true."
        raise ConfigError([Problem("ablation", message, hint)])
    draft = imported.draft
    for name, value in options.items():
        if value is not None:
            draft = replace_setting(draft, f"ablation.{name}", value)
    _check_search_options(draft)
    return replace(imported, draft=accept_hard_stops(draft, accept))


def read_objective_options(objective: str | None, rules: Path | None) -> dict[str, str | None]:
    """Return the settings of the study that the two options mean. Raises ToolkitError for a file that can't be read."""
    if rules is None:
        return {"objective": objective}
    text = json.dumps(parse_checked_rules(load_draft(read_config_text(rules))).model_dump(exclude={"gate"}))
    return {"objective": objective or RULES_OBJECTIVE, "pass_rules": text}


def _check_search_options(draft: Mapping[str, Any]) -> None:
    """Raise ConfigError for a number of trials with a method that trains every combination."""
    method = get_setting(draft, "ablation.method") or "grid"
    if method == "grid" and get_setting(draft, "ablation.trials") is not None:
        message = "The number of trials has no effect on a grid, which trains every combination."
        hint = "Add --method random or --method tpe, or leave the number out."
        raise ConfigError([Problem("ablation.trials", message, hint)])


def list_open_runs(save_dir: Path, name: str) -> list[RunDir]:
    """Return the runs of a study that have not ended, after the trials that its method chooses next were queued."""
    queued = advance_study(save_dir, name)
    study = read_study(save_dir, name)
    waiting = [one.run for one in study.outcomes if one.run is not None and one.state in UNFINISHED]
    return queued or [run for run in waiting if is_lock_held(run.lock_path) or is_run_approved(run)]


def find_study_place(imported: ImportedSettings) -> tuple[str, Path]:
    """Return the name of the study in these settings, and its save_dir."""
    return str(get_setting(imported.draft, "ablation.study_name")), save_dir_of(parse_draft(imported.draft))


def print_study(save_dir: Path, name: str, report: Path | None = None, csv: Path | None = None) -> None:
    """Print the verdict and the trials of a study, and write the files that are asked for. Raises RunError."""
    study = read_study(save_dir.absolute(), name)
    verdict = judge_study(study)
    rows = tabulate_study(study)
    grid = Grid(*rows[0], box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*map(_format_cell, row.values()))
    out.print(f"\n{describe_verdict(study, verdict)}\n{describe_objective(study)}\n")
    out.print(grid, soft_wrap=False)
    for path, text in ((report, format_study_html(study, verdict)), (csv, format_study_csv(study))):
        if path is not None:
            _write_file(path, text)


def _format_cell(cell: Any) -> str:
    return "–" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _write_file(path: Path, text: str) -> None:
    try:
        durable_write(path.expanduser(), text, 0o644)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}.", "Choose another file.") from error
    out.print(f"Written: {format_path(path)}")

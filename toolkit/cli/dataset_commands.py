"""`python -m toolkit data FILE` and `python -m toolkit check CONFIG`: what would be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.console import DEFAULT_SAVE_DIR, EXIT_FAILED, ConfigArgument, SaveDirOption, err, out, print_warnings
from toolkit.cli.dataset_report import find_hard_stops, report_dataset
from toolkit.config import Config
from toolkit.data.examples.split import plan_split
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table, rows_in_words
from toolkit.errors import ConfigError, DataError, Problem
from toolkit.forecast.decisions import decide_open_settings
from toolkit.forecast.scene import NoForecast
from toolkit.runs.preflight import preflight_problems
from toolkit.runs.run_dir import save_dir_of
from toolkit.settings import import_export
from toolkit.settings.ablation import expand_trials
from toolkit.system.machine import Machine, probe_machine
from toolkit.system.printable import about_duration, format_bytes, format_plural, strip_control_characters


def inspect_data(
    file: Annotated[Path, typer.Argument(help="A file with training data.")],
    model: Annotated[
        str | None, typer.Option(help="Base model with whose tokenizer the rows are checked for blocking problems.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Show how FILE is read and what is suggested to train on. Exit code 1 if it can't be read."""
    report = report_dataset(file, model, save_dir.absolute())
    if as_json:
        out.print(json.dumps(report, ensure_ascii=False, indent=1), soft_wrap=True)
    else:
        _print_report(report)
    raise typer.Exit(EXIT_FAILED if report["refused"] else 0)


def check(config: ConfigArgument) -> None:
    """Check the settings in CONFIG and their data without starting. Exit code 1 if a run can't start."""
    try:
        imported = import_export.import_settings_file(config)
        trials = expand_trials(imported.draft, imported.grid)
    except ConfigError as error:
        for problem in error.problems:
            err.print(strip_control_characters(f"error: {problem}"))
        raise typer.Exit(EXIT_FAILED) from error
    print_warnings(imported.warnings)
    seen: dict[Problem, None] = {}
    for number, trial in enumerate(trials, start=1):
        if len(trials) > 1:
            out.print(f"Run {number} of {len(trials)}:")
        seen.update(dict.fromkeys(_check_config(trial.config, seen)))
    raise typer.Exit(EXIT_FAILED if any(problem.severity == "error" for problem in seen) else 0)


def _check_config(config: Config, shown: dict[Problem, None]) -> list[Problem]:
    """Print what a run of this config would be, and return its problems. shown: not to be printed again."""
    save_dir = save_dir_of(config)
    machine = probe_machine(save_dir)
    try:
        table = open_table(config.data, save_dir)
    except DataError as error:
        found, table = [Problem("data.path", error.message, error.hint)], None
    else:
        found = preflight_problems(config, table, machine)
    if table is not None and not _has_error(found):
        found += find_hard_stops(config, table, save_dir)
        _print_rows(config, table)
        _print_forecast(config, table, machine, save_dir)
    for problem in (problem for problem in found if problem not in shown):
        text = f"{'blocking' if problem.severity == 'error' else 'warning'}: {problem}"
        (err if problem.severity == "error" else out).print(strip_control_characters(text))
    out.print("A run can't start." if _has_error(found) else "A run can start.")
    return found


def _has_error(problems: list[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def _print_rows(config: Config, table: Table) -> None:
    plan = plan_split(table, config.data)
    parts = f"{len(plan.train):,} for training, {len(plan.test):,} for testing, {len(plan.dropped):,} skipped"
    out.print(strip_control_characters(f"{table.label}: {rows_in_words(table.rows)} ({parts})"))


def _print_forecast(config: Config, table: Table, machine: Machine | None, save_dir: Path) -> None:
    found = decide_open_settings(config, table, machine, save_dir).found
    if isinstance(found, NoForecast):
        out.print(strip_control_characters(f"forecast: none. {found.why}"))
        return
    size = f"{format_bytes(found.memory.peak)} of {format_bytes(found.scene.memory_bytes)} of memory ({found.fit})"
    out.print(f"forecast: {format_plural(found.steps, 'step')}, {about_duration(found.seconds)}, {size}")


def _print_report(report: dict[str, Any]) -> None:
    if refused := report["refused"]:
        err.print(strip_control_characters(f"error: {refused['message']} {refused['hint']}"))
        for label in refused["offers"]:
            err.print(strip_control_characters(f"  possible: {label}"))
        return
    suggestion = report["suggestion"]
    lines = [f"{rows_in_words(report['rows'])}, columns: {', '.join(report['columns'])}"]
    lines += [f"note: {note}" for note in (*report["notices"], *suggestion["notes"])]
    if suggestion["kind"] == "pair":
        lines.append(f"suggested: prompt {suggestion['prompt']!r}, completion {suggestion['completion']!r}")
    elif suggestion["kind"] == "conversations":
        lines.append(f"suggested: the conversations in '{suggestion['messages']}'")
    lines += [f"candidate: prompt {c['prompt']!r}, completion {c['completion']!r}" for c in suggestion["candidates"]]
    lines.append(f"usable: {rows_in_words(report['usable_rows'])}, skipped: {report['skipped_rows']:,}")
    lines += [f"blocking: {problem['message']} {problem['hint']}" for problem in report["problems"]]
    lines += [f"finding ({finding['severity']}): {finding['message']}" for finding in report["findings"]]
    for line in lines:
        out.print(strip_control_characters(line))

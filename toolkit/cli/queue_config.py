"""From imported settings to queued runs: one run, or the trials of a study that have no run yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from toolkit.cli.console import out, print_warnings
from toolkit.cli.progress import format_resume_command
from toolkit.config import Config, DataConfig
from toolkit.data.read_options import source_key
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ConfigError, Problem
from toolkit.forecast.decisions import decide_open_settings
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.run_dir import RunDir, create_run, is_run_approved, save_dir_of
from toolkit.runs.slots import count_slots, save_slot_count
from toolkit.runs.status import read_run_status
from toolkit.settings.ablation import StudyTrial, uses_ablation
from toolkit.settings.import_export import ImportedSettings
from toolkit.studies.methods.advance import advance_study
from toolkit.studies.plan import StudyPlan, plan_study
from toolkit.studies.question import ask_study, hash_trial_content
from toolkit.studies.start import PlannedRun, StudyProgress, start_study
from toolkit.system.machine import probe_machine, read_known_machine
from toolkit.system.printable import format_plural


def queue_config(
    imported: ImportedSettings,
    name: str = "",
    *,
    retry_failed: bool = False,
    slots: int | None = None,
    place: Callable[[Path], None] = lambda save_dir: None,
) -> list[RunDir]:
    """Queue what the settings ask for and return the runs to wait for, in order.

    slots: how many runs of this save_dir train at the same time from now on; None leaves that as it is. place: decides
    before anything is checked where its runs train.
    A study that exists already is continued: only trials without a run are added. Raises ToolkitError.
    """
    plan = plan_study(imported.draft, imported.grid)
    print_warnings(plan.left_out)
    place(save_dir_of(plan.trials[0].config))
    tables = _open_checked_tables([trial.config for trial in plan.trials])
    first = plan.trials[0].config
    if slots is not None:
        probe_machine(save_dir_of(first))  # how many there can be depends on the GPUs
        save_slot_count(save_dir_of(first), slots)
    if not uses_ablation(imported.draft) or not (imported.grid or len(plan.trials) > 1):
        final = _decide(first, tables[0])
        made = create_run(final.config, tables[0], name=name, chosen=final.chosen, memory_bytes=final.memory_bytes)
        return [made]
    datasets = [table.sha256 for table in tables]
    question = ask_study(first.ablation.study_name or "", plan.trials, datasets, imported.draft, imported.grid)
    by_content = {
        hash_trial_content(trial.config, table.sha256): (trial, table)
        for trial, table in zip(plan.trials, tables, strict=True)
    }

    def plan_run(content: str) -> PlannedRun:
        trial, table = by_content[content]
        return replace(_decide(trial.config, table), name=_label_run(trial, name, plan))

    queued, progress = start_study(save_dir_of(first), question, plan_run, retry_failed=retry_failed)
    _print_progress(question.name, plan, progress)
    # all trials that were planned before may have ended
    queued += advance_study(save_dir_of(first), question.name, restore=True)
    unfinished = [run for run in progress.kept if not read_run_status(run).has_ended]
    return sorted([*queued, *leave_out_unapproved(unfinished)], key=lambda run: run.id)


def leave_out_unapproved(runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs that will be trained: without those that wait for approval, which are printed."""
    unapproved = [run for run in runs if read_run_status(run).state == "queued" and not is_run_approved(run)]
    if unapproved:
        count = format_plural(len(unapproved), "queued run")
        out.print(f"{count} came with the folder from elsewhere and will not be trained before you approve them, with:")
        for run in unapproved:
            out.print(f"  {format_resume_command(run)}")
    return [run for run in runs if run not in unapproved]


def _print_progress(study: str, plan: StudyPlan, progress: StudyProgress) -> None:
    seeds = max(1, len(plan.seeds))
    combinations = format_plural(plan.combinations, "combination")
    total = f"{combinations} × {format_plural(seeds, 'seed')}"
    slots = count_slots(save_dir_of(plan.trials[0].config))
    order = "one after another" if slots == 1 else f"{slots} at the same time"
    then = f", then {format_plural(plan.later * seeds, 'run')} that TPE chooses by the results" if plan.later else ""
    out.print(f"Study {study}: {len(plan.trials)} runs ({total}), {order}{then}.")
    if progress.kept:
        out.print(f"{len(progress.kept)} of them are trained or queued already and are not trained again.")
    if progress.resumed:
        out.print(f"{len(progress.resumed)} were stopped and continue from their last checkpoint.")
    if progress.is_decided:
        out.print("The study is decided, and stop_when_decided is on: nothing is left to train.")
    if progress.failed:
        out.print(f"{len(progress.failed)} failed before. To try them again, add --retry-failed to the study command.")


def _label_run(trial: StudyTrial, name: str, plan: StudyPlan) -> str:
    values = [f"{path.rpartition('.')[2]} {value}" for path, value in trial.settings.items()]
    seed = [f"seed {trial.config.training.training_args.seed}"] if len(plan.seeds) > 1 else []
    return " · ".join(part for part in (name, ", ".join([*values, *seed])) if part)


def _decide(config: Config, table: Table) -> PlannedRun:
    folder = save_dir_of(config)
    final = decide_open_settings(config, table, read_known_machine(folder), folder)
    return PlannedRun(final.config, table, chosen=final.reasons, memory_bytes=final.memory_bytes)


def _open_checked_tables(configs: list[Config]) -> list[Table]:
    """Open the table of each config; configs with the same source share one.

    Raises ConfigError with the problems of all configs.
    """
    opened: dict[str, Table] = {}
    tables: list[Table] = []
    found: dict[Problem, None] = {}
    for config in configs:
        key = source_key(config.data)
        if key not in opened:
            opened[key] = _open_with_notices(config.data, save_dir_of(config))
        tables.append(opened[key])
        # the probe imports torch, which takes seconds: only settings that depend on the GPU wait for it
        read_machine = probe_machine if preflight_needs_machine(config) else read_known_machine
        machine = read_machine(save_dir_of(config))
        found.update(dict.fromkeys(preflight_problems(config, opened[key], machine)))
    if errors := [problem for problem in found if problem.severity == "error"]:
        raise ConfigError(errors)
    print_warnings(found)
    return tables


def _open_with_notices(data: DataConfig, save_dir: Path) -> Table:
    out.print(f"Reading {data.path} ...")
    table = open_table(data, save_dir)
    for notice in table.notices:
        out.print(f"note: {notice}")
    return table

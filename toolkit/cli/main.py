"""The same runs without a browser: `python -m toolkit run config.yml`, list, serve, evaluate, export.

Exit codes: 0 finished, 1 failed, 2 settings that can't be used (every problem is printed), 130 stopped by Ctrl-C. Knows
neither how a run starts (`lifecycle/supervisor.py`) nor how the engine answers (`client.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column
from rich.table import Table as Grid

from toolkit.cli.evaluate import evaluate
from toolkit.cli.progress import (
    describe_export_end,
    describe_run_end,
    format_path,
    format_run_row,
    make_export_printer,
    show_run_progress,
)
from toolkit.config import Config, DataConfig
from toolkit.data.read_options import source_key
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ConfigError, Problem, RunError, ToolkitError
from toolkit.export.export_process import export_to_end
from toolkit.export.export_state import EXPORT_FORMS, find_export_form
from toolkit.forecast.decisions import decide_open_settings
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.preflight import preflight_needs_machine, preflight_problems
from toolkit.runs.run_dir import RunDir, create_run, kill_run, list_runs, open_run, request_run_stop, save_dir_of
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.services import engine_client
from toolkit.settings import import_export
from toolkit.settings.ablation import StudyTrial, expand_trials, uses_ablation
from toolkit.settings.import_export import load_presets as all_presets
from toolkit.system.machine import probe_machine, read_known_machine
from toolkit.system.printable import strip_control_characters
from toolkit.system.spawn import app_command

EXIT_FAILED, EXIT_BAD_SETTINGS, EXIT_INTERRUPTED = 1, 2, 130
RUN_LIST_COLUMNS = ("name", "study", "state", "steps", "loss", "exact match")
RUN_ID_WIDTH = 20
"""Characters of a run's id: one types it from the list."""
AcceptOption = Annotated[
    list[str] | None, typer.Option(help="A hard stop that is meant, by its name; may be repeated.")
]
SaveDirOption = Annotated[Path, typer.Option(help="The folder that the runs are in.")]
DEFAULT_SAVE_DIR = Path(Config().save_dir or ".")

app = typer.Typer(
    help="Fine-tune language models.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: no error of any kind ends in a traceback."""
    with _print_errors():
        app()


@app.command("app")
def open_app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of this machine to listen on.")] = 8501,
) -> None:
    """Open the app in the browser."""
    command = [*app_command(), "--server.port", str(port)]
    os.execv(command[0], command)  # the server takes this process's place, and with it Ctrl-C and the exit code


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file, as the Configure page exports it.")],
    name: Annotated[str, typer.Option(help="A name for people; the run's folder has an id of its own.")] = "",
    accept: AcceptOption = None,
) -> None:
    """Train as CONFIG says; every combination of it when ablation is on."""
    imported = import_export.import_settings_file(config)
    variants = expand_trials(import_export.accept_hard_stops(imported.draft, accept or ()), imported.grid)
    _print_warnings(imported.warnings)
    tables = _open_checked_tables([variant.config for variant in variants])
    study = (variants[0].config.ablation.study_name or "") if uses_ablation(imported.draft) else ""
    runs = [_create_trial_run(variant, table, name, study) for variant, table in zip(variants, tables, strict=True)]
    if len(runs) > 1:
        out.print(f"Study {study}: {len(runs)} runs, one after the other.")
    raise typer.Exit(_run_all(runs))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The id of a run that was paused, stopped, or broke off.")],
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Let RUN go on from its last checkpoint, to the end that its settings say."""
    if read_run_status(chosen := open_run(save_dir, run)).explained:
        request_resume(chosen)
    raise typer.Exit(_run_all([chosen]))


@app.command()
def pause(
    run: Annotated[str, typer.Argument(help="The id of a run that is going.")],
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Let RUN finish its step, write a checkpoint and leave; `resume` goes on from there."""
    if not read_run_status(chosen := open_run(save_dir, run)).is_active:
        raise RunError(f"Run {run} is not going.", "See the list of runs: python -m toolkit list")
    request_run_stop(chosen, pause=True)
    out.print(f"It pauses after this step. Go on later: python -m toolkit resume {run}")


@app.command("list")
def list_(save_dir: SaveDirOption = DEFAULT_SAVE_DIR) -> None:
    """All runs, newest first."""
    if not (runs := list_runs(save_dir)):
        out.print(f"There is no run in {save_dir} yet. Start one: python -m toolkit run config.yml")
        return
    grid = Grid(Column("run", min_width=RUN_ID_WIDTH), *RUN_LIST_COLUMNS, box=None, pad_edge=False)
    for one in runs:
        grid.add_row(*format_run_row(one))
    out.print(grid, soft_wrap=False)


@app.command()
def serve(
    run: Annotated[str, typer.Argument(help="The id of a run that has an adapter.")],
    also: Annotated[list[str] | None, typer.Argument(help="More runs on its base; RUN@STEP is a checkpoint.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Empty means any free one.")] = None,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Answer with RUN's adapter and its base model over HTTP, in the manner of OpenAI's API, on this machine alone."""
    engine_client.serve_in_foreground(save_dir.absolute(), open_run(save_dir, run).id, port, also or ())


app.command()(evaluate)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The id of a run that has an adapter.")],
    form: Annotated[str, typer.Option(help=f"One of {', '.join(EXPORT_FORMS)}, or all.")] = "adapter",
    check: Annotated[bool, typer.Option("--check", help="Only play the export that is there once more.")] = False,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Make a copy of RUN's model to take away, and check that it answers as the run did."""
    chosen = open_run(save_dir, run)
    wanted = list(EXPORT_FORMS) if form == "all" else [find_export_form(form).key]
    ends = [export_to_end(chosen, one, make_export_printer(out), check_only=check) for one in wanted]
    for end in ends:
        (out if end.state == "passed" else err).print(describe_export_end(end))
    raise typer.Exit(0 if all(end.state == "passed" for end in ends) else EXIT_FAILED)


@app.command()
def presets() -> None:
    """The known-good settings that ship with the toolkit."""
    for preset in all_presets():
        out.print(f"{preset.title}\n  {preset.description}\n  python -m toolkit run {format_path(preset.path)}\n")


def _open_checked_tables(configs: list[Config]) -> list[Table]:
    """The table of each config; raises ConfigError with every problem of all of them."""
    opened: dict[str, Table] = {}
    tables: list[Table] = []
    found: dict[Problem, None] = {}
    for config in configs:
        key = source_key(config.data)
        if key not in opened:
            opened[key] = _open_with_notices(config.data, save_dir_of(config))
        tables.append(opened[key])
        here = (
            probe_machine(save_dir_of(config))
            if preflight_needs_machine(config)
            else read_known_machine(save_dir_of(config))
        )
        found.update(dict.fromkeys(preflight_problems(config, opened[key], here)))
    if errors := [problem for problem in found if problem.severity == "error"]:
        raise ConfigError(errors)
    _print_warnings(found)
    return tables


def _open_with_notices(data: DataConfig, save_dir: Path) -> Table:
    out.print(f"Reading {data.path} ...")
    table = open_table(data, save_dir)
    for notice in table.notices:
        out.print(strip_control_characters(f"note: {notice}"))
    return table


def _create_trial_run(variant: StudyTrial, table: Table, name: str, study: str) -> RunDir:
    differing = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in variant.settings.items())
    label = " · ".join(word for word in (name, differing) if word)
    final = decide_open_settings(
        variant.config, table, read_known_machine(folder := save_dir_of(variant.config)), folder
    )
    return create_run(final.config, table, name=label, study=study, settings=variant.settings, chosen=final.reasons)


def _run_all(runs: list[RunDir]) -> int:
    """Exit code after running them in order; one that fails does not keep the others from running."""
    code = 0
    supervisor = Supervisor(runs[0].save_dir)
    with _stop_on_interrupt(runs) as interrupts:
        for one in runs:
            status = _follow_run(supervisor, one, interrupts)
            (err if status.state in ("failed", "interrupted") else out).print(describe_run_end(one, status))
            if interrupts:
                return EXIT_INTERRUPTED
            code = code if status.state == "finished" else EXIT_FAILED
    return code


@contextmanager
def _stop_on_interrupt(runs: list[RunDir]) -> Iterator[list[int]]:
    """Ctrl-C asks the runs to stop, and a second one has them killed; the list counts. No exception flies about."""
    interrupts: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        for one in runs:
            if one.path.is_dir():
                request_run_stop(one)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _follow_run(supervisor: Supervisor, run: RunDir, interrupts: list[int]) -> RunStatus:
    out.print(f"Run {run.id} in {format_path(run.path)}")
    with show_run_progress(run, out) as show:

        def look(status: RunStatus) -> None:
            show(status, len(interrupts))
            if len(interrupts) > 1 and status.is_active:
                kill_run(run)

        return supervisor.run_to_end(run, look)


def _print_warnings(problems: Iterable[Problem]) -> None:
    for problem in problems:
        err.print(strip_control_characters(f"warning: {problem}"))


@contextmanager
def _print_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            err.print(strip_control_characters(f"error: {problem}"))
        sys.exit(EXIT_BAD_SETTINGS)
    except ToolkitError as error:
        err.print(strip_control_characters(f"error: {error}"))
        sys.exit(EXIT_FAILED)
    except Exception as error:  # the last line of defence between a bug and a person
        if "FTK_DEBUG" in os.environ:
            raise
        err.print(f"error: this is a bug of the toolkit ({type(error).__name__}: {error}). FTK_DEBUG=1 shows where.")
        sys.exit(EXIT_FAILED)

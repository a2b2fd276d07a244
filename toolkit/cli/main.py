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
from toolkit.cli.progress import display, ending, export_ending, export_line, row, shown
from toolkit.config import Config, DataConfig
from toolkit.data.read_options import source_key
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ConfigError, Problem, RunError, ToolkitError
from toolkit.export.export_process import export_to_end
from toolkit.export.export_state import FORMS, known
from toolkit.forecast.decisions import settle
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.preflight import asks_machine, preflight
from toolkit.runs.run_dir import RunDir, create_run, kill_run, list_runs, open_run, request_stop, save_dir_of
from toolkit.runs.status import RunStatus, read_status
from toolkit.services import engine_client
from toolkit.settings import import_export
from toolkit.settings.ablation import Variant, expand, uses_ablation
from toolkit.settings.presets import presets as all_presets
from toolkit.system.machine import machine, machine_if_known
from toolkit.system.printable import legible

FAILED, UNUSABLE, STOPPED = 1, 2, 130
LISTED = ("name", "study", "state", "steps", "loss", "exact match")
MAX_ID = 20
"""Characters of a run's id: one types it from the list."""
Accepted = Annotated[list[str] | None, typer.Option(help="A hard stop that is meant, by its name; may be repeated.")]
SaveDir = Annotated[Path, typer.Option(help="The folder that the runs are in.")]
HERE = Path(Config().save_dir or ".")

app = typer.Typer(
    help="Fine-tune language models.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: no error of any kind ends in a traceback."""
    with _words_for_errors():
        app()


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file, as the Configure page exports it.")],
    name: Annotated[str, typer.Option(help="A name for people; the run's folder has an id of its own.")] = "",
    accept: Accepted = None,
) -> None:
    """Train as CONFIG says; every combination of it when ablation is on."""
    imported = import_export.read_file(config)
    variants = expand(import_export.accepting(imported.draft, accept or ()), imported.grid)
    _tell(imported.warnings)
    tables = _check([variant.config for variant in variants])
    study = (variants[0].config.ablation.study_name or "") if uses_ablation(imported.draft) else ""
    runs = [_create(variant, table, name, study) for variant, table in zip(variants, tables, strict=True)]
    if len(runs) > 1:
        out.print(f"Study {study}: {len(runs)} runs, one after the other.")
    raise typer.Exit(_run_all(runs))


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The id of a run that was paused, stopped, or broke off.")],
    save_dir: SaveDir = HERE,
) -> None:
    """Let RUN go on from its last checkpoint, to the end that its settings say."""
    if read_status(chosen := open_run(save_dir, run)).explained:
        request_resume(chosen)
    raise typer.Exit(_run_all([chosen]))


@app.command()
def pause(run: Annotated[str, typer.Argument(help="The id of a run that is going.")], save_dir: SaveDir = HERE) -> None:
    """Let RUN finish its step, write a checkpoint and leave; `resume` goes on from there."""
    if not read_status(chosen := open_run(save_dir, run)).living:
        raise RunError(f"Run {run} is not going.", "See the list of runs: python -m toolkit list")
    request_stop(chosen, pause=True)
    out.print(f"It pauses after this step. Go on later: python -m toolkit resume {run}")


@app.command("list")
def list_(save_dir: SaveDir = HERE) -> None:
    """All runs, newest first."""
    if not (runs := list_runs(save_dir)):
        out.print(f"There is no run in {save_dir} yet. Start one: python -m toolkit run config.yml")
        return
    grid = Grid(Column("run", min_width=MAX_ID), *LISTED, box=None, pad_edge=False)
    for one in runs:
        grid.add_row(*row(one))
    out.print(grid, soft_wrap=False)


@app.command()
def serve(
    run: Annotated[str, typer.Argument(help="The id of a run that has an adapter.")],
    also: Annotated[list[str] | None, typer.Argument(help="More runs on its base; RUN@STEP is a checkpoint.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Empty means any free one.")] = None,
    save_dir: SaveDir = HERE,
) -> None:
    """Answer with RUN's adapter and its base model over HTTP, in the manner of OpenAI's API, on this machine alone."""
    engine_client.serve_foreground(save_dir.absolute(), open_run(save_dir, run).id, port, also or ())


app.command()(evaluate)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The id of a run that has an adapter.")],
    form: Annotated[str, typer.Option(help=f"One of {', '.join(FORMS)}, or all.")] = "adapter",
    check: Annotated[bool, typer.Option("--check", help="Only play the export that is there once more.")] = False,
    save_dir: SaveDir = HERE,
) -> None:
    """Make a copy of RUN's model to take away, and check that it answers as the run did."""
    chosen = open_run(save_dir, run)
    wanted = list(FORMS) if form == "all" else [known(form).key]
    ends = [export_to_end(chosen, one, export_line(out), check_only=check) for one in wanted]
    for end in ends:
        (out if end.state == "passed" else err).print(export_ending(end))
    raise typer.Exit(0 if all(end.state == "passed" for end in ends) else FAILED)


@app.command()
def presets() -> None:
    """The known-good settings that ship with the toolkit."""
    for preset in all_presets():
        out.print(f"{preset.title}\n  {preset.description}\n  python -m toolkit run {shown(preset.path)}\n")


def _check(configs: list[Config]) -> list[Table]:
    """The table of each config; raises ConfigError with every problem of all of them."""
    opened: dict[str, Table] = {}
    tables: list[Table] = []
    found: dict[Problem, None] = {}
    for config in configs:
        key = source_key(config.data)
        if key not in opened:
            opened[key] = _open(config.data, save_dir_of(config))
        tables.append(opened[key])
        here = machine(save_dir_of(config)) if asks_machine(config) else machine_if_known(save_dir_of(config))
        found.update(dict.fromkeys(preflight(config, opened[key], here)))
    if errors := [problem for problem in found if problem.severity == "error"]:
        raise ConfigError(errors)
    _tell(found)
    return tables


def _open(data: DataConfig, save_dir: Path) -> Table:
    out.print(f"Reading {data.path} ...")
    table = open_table(data, save_dir)
    for notice in table.notices:
        out.print(legible(f"note: {notice}"))
    return table


def _create(variant: Variant, table: Table, name: str, study: str) -> RunDir:
    differing = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in variant.settings.items())
    label = " · ".join(word for word in (name, differing) if word)
    final = settle(variant.config, table, machine_if_known(folder := save_dir_of(variant.config)), folder)
    return create_run(final.config, table, name=label, study=study, settings=variant.settings, chosen=final.reasons)


def _run_all(runs: list[RunDir]) -> int:
    """Exit code after running them in order; one that fails does not keep the others from running."""
    code = 0
    supervisor = Supervisor(runs[0].save_dir)
    with _polite_interrupts(runs) as interrupts:
        for one in runs:
            status = _follow(supervisor, one, interrupts)
            (err if status.state in ("failed", "interrupted") else out).print(ending(one, status))
            if interrupts:
                return STOPPED
            code = code if status.state == "finished" else FAILED
    return code


@contextmanager
def _polite_interrupts(runs: list[RunDir]) -> Iterator[list[int]]:
    """Ctrl-C asks the runs to stop, and a second one has them killed; the list counts. No exception flies about."""
    interrupts: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        for one in runs:
            if one.path.is_dir():
                request_stop(one)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(supervisor: Supervisor, run: RunDir, interrupts: list[int]) -> RunStatus:
    out.print(f"Run {run.id} in {shown(run.path)}")
    with display(run, out) as show:

        def look(status: RunStatus) -> None:
            show(status, len(interrupts))
            if len(interrupts) > 1 and status.living:
                kill_run(run)

        return supervisor.run_to_end(run, look)


def _tell(problems: Iterable[Problem]) -> None:
    for problem in problems:
        err.print(legible(f"warning: {problem}"))


@contextmanager
def _words_for_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            err.print(legible(f"error: {problem}"))
        sys.exit(UNUSABLE)
    except ToolkitError as error:
        err.print(legible(f"error: {error}"))
        sys.exit(FAILED)
    except Exception as error:  # the last line of defence between a bug and a person
        if "FTK_DEBUG" in os.environ:
            raise
        err.print(f"error: this is a bug of the toolkit ({type(error).__name__}: {error}). FTK_DEBUG=1 shows where.")
        sys.exit(FAILED)

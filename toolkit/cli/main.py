"""The command line: `python -m toolkit run config.yml`, data, check, list, pause, resume, serve, evaluate, ...

Exit codes: 0 success, 1 failure, 2 invalid settings (every problem is printed), 3 refused by an evaluation's gate,
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.table import Column
from rich.table import Table as Grid

from toolkit.access.token_file import build_link, find_app_folder, load_access_token, read_address
from toolkit.cli.console import (
    DEFAULT_SAVE_DIR,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    ConfigArgument,
    SaveDirOption,
    err,
    format_path,
    out,
    print_errors,
    print_warnings,
)
from toolkit.cli.dataset_commands import check, inspect_data
from toolkit.cli.evaluate import evaluate
from toolkit.cli.follow import follow
from toolkit.cli.help_names import use_plain_help_names
from toolkit.cli.launcher_options import AddressOption, LauncherOption, choose_launcher, make_launcher_choice
from toolkit.cli.progress import (
    describe_export_end,
    describe_run_end,
    format_run_row,
    make_export_printer,
    print_ladder,
    show_run_progress,
)
from toolkit.cli.queue_config import queue_config
from toolkit.cli.study import (
    find_study_place,
    is_config_target,
    list_open_runs,
    print_study,
    read_objective_options,
    read_study_config,
)
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.export.export_forms import EXPORT_FORMS, find_export_form
from toolkit.export.export_process import export_to_end
from toolkit.export.gguf_ladder import compare_gguf_files, list_ladder_forms
from toolkit.field_types import StudyMethod, StudyObjective
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, approve_run, kill_run, list_runs, open_run, request_run_stop
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.services import engine_client
from toolkit.settings import import_export
from toolkit.settings.import_export import accept_hard_stops
from toolkit.settings.import_export import load_presets as all_presets
from toolkit.studies.methods.advance import advance_studies
from toolkit.studies.verdict import DECIDED_REASON, is_pruned
from toolkit.system.printable import log_plain_text
from toolkit.system.private_files import restrict_new_files
from toolkit.system.spawn import app_command

DEFAULT_API_PORT = 8600
DEFAULT_BASE_MODEL = str(Config().model.hf_model_ckpt)
RUN_LIST_COLUMNS = ("name", "study", "state", "steps", "loss", "exact match")
RUN_ID_WIDTH = 20
"""Characters of a run's ID, which are never cut off: the ID is copied from the list into other commands."""
AcceptOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Blocking problem to accept, by name. Can be repeated.")
]
SlotsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Runs that train at the same time from now on. At first: one per GPU, one on a CPU."),
]

app = typer.Typer(
    help="Fine-tune a language model, then evaluate, serve and export it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; every error is printed as a message."""
    restrict_new_files()
    log_plain_text()
    with print_errors():
        app()


@app.command("app")
def open_app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the app listens on.")] = 8501,
) -> None:
    """Start the app and open it in the browser."""
    command = [*app_command(), "--server.port", str(port)]
    os.execv(command[0], command)  # noqa: S606 - the server replaces this process: Ctrl-C and exit code are its own


@app.command("link")
def print_link(
    save_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder that the app was started with, if not its default."),
    ] = None,
) -> None:
    """Print the link that opens the app. It holds the app's access token: keep it to yourself."""
    folder = save_dir or find_app_folder()
    out.print(build_link(read_address(folder), load_access_token(folder)))


@app.command()
def run(
    config: ConfigArgument,
    name: Annotated[str, typer.Option(help="Display name of the run. The run's ID is generated.")] = "",
    accept: AcceptOption = None,
    slots: SlotsOption = None,
    launcher: LauncherOption = None,
    address: AddressOption = None,
) -> None:
    """Train with the settings in CONFIG. A study trains one run for each combination of values."""
    place = make_launcher_choice(launcher, address)
    imported = import_export.import_settings_file(config)
    print_warnings(imported.warnings)
    wanted = replace(imported, draft=accept_hard_stops(imported.draft, accept or ()))
    raise typer.Exit(_run_all(queue_config(wanted, name, slots=slots, place=place), _find_more(wanted)))


@app.command()
def study(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|NAME", help="A YAML file to train, or the name of a study to read.")
    ],
    seeds: Annotated[int | None, typer.Option(min=1, max=20, help="Runs of each combination of values.")] = None,
    method: Annotated[
        StudyMethod | None, typer.Option(help="Train every combination, some at random, or those that TPE chooses.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, max=500, help="Combinations that random or tpe trains.")] = None,
    objective: Annotated[
        StudyObjective | None, typer.Option(help="What the trials are compared by; lower is better for figures.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML or JSON file with pass rules, which are the objective.")
    ] = None,
    stop_when_decided: Annotated[
        bool, typer.Option("--stop-when-decided", help="Cancel the remaining runs once the verdict has settled.")
    ] = False,
    name: Annotated[str, typer.Option(help="Prefix of the runs' display names.")] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Resume the trials that failed.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the study as an HTML file.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table of trials as CSV.")] = None,
    accept: AcceptOption = None,
    slots: SlotsOption = None,
    launcher: LauncherOption = None,
    address: AddressOption = None,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Train the trials in a YAML file that have no run yet, and print the verdict; or print that of a study, by NAME.

    A study that was stopped continues where it was.
    """
    place = make_launcher_choice(launcher, address)
    code, study_name = 0, target
    if is_config_target(target):
        options = {"seeds": seeds, "method": method, "trials": trials, "stop_when_decided": stop_when_decided or None}
        compared = read_objective_options(objective, rules)
        imported = read_study_config(Path(target), {**options, **compared}, accept or ())
        queued = queue_config(imported, name, retry_failed=retry_failed, slots=slots, place=place)
        code = _run_all(queued, _find_more(imported))
        study_name, save_dir = find_study_place(imported)
    if code != EXIT_INTERRUPTED:
        print_study(save_dir, study_name, report, csv)
    raise typer.Exit(code)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="ID of a run that was paused, stopped or interrupted.")],
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Resume RUN from its last checkpoint and train it to the end."""
    if read_run_status(chosen := open_run(save_dir, run)).explained:
        request_resume(chosen)
    approve_run(chosen)
    raise typer.Exit(_run_all([chosen]))


@app.command()
def pause(
    run: Annotated[str, typer.Argument(help="ID of a run that is training.")],
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Pause RUN after its current step. It writes a checkpoint, from which `resume` continues."""
    if not read_run_status(chosen := open_run(save_dir, run)).is_active:
        raise RunError(f"Run {run} is not running.", "List the runs with: python -m toolkit list")
    request_run_stop(chosen, pause=True)
    out.print(f"The run pauses after the current step. Resume it with: python -m toolkit resume {run}")


@app.command("list")
def list_(save_dir: SaveDirOption = DEFAULT_SAVE_DIR) -> None:
    """List all runs, newest first."""
    if not (runs := list_runs(save_dir)):
        out.print(f"There are no runs in {save_dir}. Start one with: python -m toolkit run config.yml")
        return
    grid = Grid(Column("run", min_width=RUN_ID_WIDTH), *RUN_LIST_COLUMNS, box=None, pad_edge=False)
    for listed in runs:
        grid.add_row(*format_run_row(listed))
    out.print(grid, soft_wrap=False)


@app.command()
def serve(
    run: Annotated[str, typer.Argument(help="ID of a run that has an adapter.")],
    also: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN@STEP",
            help="More runs of the same base model to serve, by ID. RUN@STEP selects a checkpoint.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. By default, any free port.")
    ] = None,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Serve RUN's adapter and its base model over an OpenAI-compatible API, reachable from this machine only."""
    engine_client.serve_in_foreground(save_dir.absolute(), open_run(save_dir, run).id, port, also or ())


@app.command("api")
def serve_fine_tuning_api(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = DEFAULT_API_PORT,
    model: Annotated[
        str, typer.Option(help="Base model that is trained when a client names one of OpenAI's own models.")
    ] = DEFAULT_BASE_MODEL,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Serve OpenAI's fine-tuning API: files, jobs and chat with the results, reachable from this machine only."""
    from toolkit.api.serve_api import serve_api  # a web server, which no other command needs

    serve_api(save_dir.absolute(), port, model)


app.command()(evaluate)
app.command("data")(inspect_data)
app.command()(check)
app.command()(follow)
app.command("launcher")(choose_launcher)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="ID of a run that has an adapter.")],
    form: Annotated[
        str,
        typer.Option(
            help=f"Export form: {', '.join(EXPORT_FORMS)}; all: those of 16 bits; ladder: the GGUF forms, compared."
        ),
    ] = "adapter",
    check: Annotated[bool, typer.Option("--check", help="Only verify the existing export again.")] = False,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Export RUN's model and verify that it gives the same answers as the run."""
    chosen = open_run(save_dir, run)
    every = [key for key, kind in EXPORT_FORMS.items() if not kind.quantized]
    several = {"all": every, "ladder": list_ladder_forms()}
    wanted = several[form] if form in several else [find_export_form(form).key]
    states = [export_to_end(chosen, key, make_export_printer(out), check_only=check) for key in wanted]
    for state in states:
        (out if state.state == "passed" else err).print(describe_export_end(state))
    if form == "ladder":
        print_ladder(compare_gguf_files(chosen, states), out)
    raise typer.Exit(0 if all(state.state == "passed" for state in states) else EXIT_FAILED)


@app.command()
def presets() -> None:
    """List the presets: settings that are known to work together."""
    for preset in all_presets():
        out.print(f"{preset.title}\n  {preset.description}\n  python -m toolkit run {format_path(preset.path)}\n")


use_plain_help_names(app)


def _find_more(imported: import_export.ImportedSettings) -> Callable[[], list[RunDir]]:
    """Return a function that returns the runs that a study has still to train."""
    if not imported.grid:
        return list
    name, folder = find_study_place(imported)
    return lambda: list_open_runs(folder, name)


def _run_all(runs: list[RunDir], find_more: Callable[[], list[RunDir]] = list) -> int:
    """Run them in order and return the exit code. A run that fails does not stop the ones after it.

    find_more: returns further runs, after these have ended.
    """
    code = 0
    if not runs:
        return code
    supervisor = Supervisor(runs[0].save_dir, on_run_end=advance_studies)
    with closing(supervisor.launcher), _stop_on_interrupt(runs) as interrupts:
        # the loop takes runs that are added to the list, and so does the handler of Ctrl-C
        for run in runs:
            # a study imports the training libraries once: its runs are forked from the standby worker
            status = _follow_run(supervisor, run, interrupts, others_follow=len(runs) > 1)
            (err if status.state in ("failed", "interrupted") else out).print(describe_run_end(run, status))
            if interrupts:
                return EXIT_INTERRUPTED
            is_fine = status.state == "finished" or status.message == DECIDED_REASON or is_pruned(status.message)
            code = code if is_fine else EXIT_FAILED
            if run is runs[-1]:
                runs += find_more()
    return code


@contextmanager
def _stop_on_interrupt(runs: list[RunDir]) -> Iterator[list[int]]:
    """Turn Ctrl-C into a request to stop the runs.

    Yields a list with one entry for each Ctrl-C; from the second on, `_follow_run` kills the worker. A signal handler
    instead of KeyboardInterrupt, because an exception could interrupt the supervisor between two writes.
    """
    interrupts: list[int] = []

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        for run in runs:
            if run.path.is_dir():
                request_run_stop(run)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _follow_run(supervisor: Supervisor, run: RunDir, interrupts: list[int], *, others_follow: bool) -> RunStatus:
    out.print(f"Run {run.id} in {format_path(run.path)}")
    with show_run_progress(run, out) as show:

        def on_status(status: RunStatus) -> None:
            show(status, len(interrupts))
            if len(interrupts) > 1 and status.is_active:
                kill_run(run)

        return supervisor.run_to_end(run, on_status, others_follow=others_follow)

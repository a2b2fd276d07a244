"""Progress and results of runs and exports on a terminal: a progress bar, or lines where output is not a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from toolkit.cli.console import DEFAULT_SAVE_DIR, format_path
from toolkit.errors import ToolkitError
from toolkit.export.export_state import ExportState
from toolkit.export.gguf_ladder import LADDER_COLUMNS, GgufRung, describe_smallest, list_ladder_cells
from toolkit.export.parity_certificate import VERDICT_WORDS
from toolkit.lifecycle.resume_policy import can_resume
from toolkit.runs.run_dir import RunDir, list_runs, read_run_meta
from toolkit.runs.status import RunStatus, read_open_statuses, read_run_status
from toolkit.system.printable import format_duration, format_plural, format_share

ProgressLine = Callable[[RunStatus, int], None]
"""Shows (status, number of times that Ctrl-C was pressed)."""


@contextmanager
def show_run_progress(run: RunDir, out: Console) -> Iterator[ProgressLine]:
    """Yield a function to call at every poll.

    On a terminal it moves a progress bar. Elsewhere it prints a line for each new activity and each tenth of the steps,
    so that a log file stays short.
    """
    if not out.is_terminal:
        yield _make_line_printer(run, out)
        return
    activity, numbers = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[numbers]}"))
    columns = (activity, BarColumn(), MofNCompleteColumn(), numbers, TimeElapsedColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("", total=None, numbers="")

        def update_bar(status: RunStatus, interrupts: int) -> None:
            progress.update(
                task,
                description=_describe_activity(run, status, interrupts),
                completed=status.step,
                total=status.total_steps or None,
                numbers=_format_loss_and_time(status),
            )

        yield update_bar


def _make_line_printer(run: RunDir, out: Console) -> ProgressLine:
    printed: set[tuple[str, int]] = set()

    def print_line(status: RunStatus, interrupts: int) -> None:
        activity = _describe_activity(run, status, interrupts)
        milestone = (activity, int(status.fraction * 10))
        if milestone not in printed:
            printed.add(milestone)
            steps = f"  step {status.step}/{status.total_steps}{_format_loss_and_time(status)}" if status.step else ""
            out.print(activity + steps)

    return print_line


def _describe_activity(run: RunDir, status: RunStatus, interrupts: int) -> str:
    if interrupts > 1 and status.is_active:
        return "killing the worker"
    if status.state == "stopping":
        return "stopping after the current step (press Ctrl-C again to kill the worker)"
    if status.state == "queued" and status.reason == "disk_full":
        return "waiting for free disk space; the run then continues automatically"
    if status.state == "queued":
        others = read_open_statuses(other for other in list_runs(run.save_dir) if other.id < run.id)
        before = sum(not status.has_ended for _, status in others)
        return f"waiting: {format_plural(before, 'run')} ahead in the queue" if before else "starting"
    return status.phase or status.state


def _format_loss_and_time(status: RunStatus) -> str:
    loss = status.last.get("loss")
    left = status.remaining_s
    words = [f"loss {loss:.4f}"] if isinstance(loss, float) else []
    if left is not None:
        words.append(f"{format_duration(left)} left")
    return "  " + ", ".join(words) if words else ""


def format_run_row(run: RunDir) -> tuple[str, ...]:
    """Return the cells of a run in the list: ID, name, study, state, steps, loss, exact match."""
    try:
        meta, status = read_run_meta(run), read_run_status(run)
    except ToolkitError as error:
        return run.id, error.message, "", "unreadable", "", "", ""
    loss, match = status.last.get("loss"), status.scores.get("exact_match")
    steps = f"{status.step}/{status.total_steps}" if status.total_steps else ""
    return (
        run.id,
        str(meta.get("name", "")),
        str(meta.get("study", "")),
        status.state,
        steps,
        f"{loss:.4f}" if isinstance(loss, float) else "",
        format_share(match) if isinstance(match, int | float) else "",
    )


def format_resume_command(run: RunDir) -> str:
    """Return the command that resumes a run, or approves a queued one."""
    return f"python -m toolkit resume {run.id}{_format_folder_option(run)}"


def _format_folder_option(run: RunDir) -> str:
    at_default = run.save_dir == DEFAULT_SAVE_DIR.absolute()
    return "" if at_default else f" --save-dir {shlex.quote(format_path(run.save_dir))}"


def describe_run_end(run: RunDir, status: RunStatus) -> str:
    """Return the result, the adapter's folder and the next command; for a failed run the reason and the log file."""
    duration = format_duration(status.elapsed_s)
    resume = ""
    if can_resume(status) and status.saved_step:
        resume = f"\nResume from step {status.saved_step}: {format_resume_command(run)}"
    state = status.state.capitalize()
    if status.state not in ("finished", "stopped", "paused"):
        reason = f"{state}: {status.message} {status.hint}".strip()
        return f"{reason}\nLog: {format_path(run.log_path)}{resume}"
    if not status.adapter_ready:
        return f"{state} after {duration}: no adapter was saved. {status.message}".strip() + resume
    without = ", but not all answers could be made" if status.unanswered else ""
    steps = format_plural(status.step, "step")
    lines = [f"{state} after {duration} and {steps}{without}.{resume}", *status.unanswered]
    lines.append(f"Adapter: {format_path(run.adapter_dir)}")
    base, adapter = status.scores.get("exact_match_base"), status.scores.get("exact_match")
    if isinstance(base, int | float) and isinstance(adapter, int | float):
        rows = format_plural(int(status.scores.get("rows", 0)), "test row")
        shares = f"base model {format_share(base)}, adapter {format_share(adapter)}"
        seen = status.scores.get("seen_rows")
        known = f" {seen} of these rows {'is' if seen == 1 else 'are'} also in the training set." if seen else ""
        lines.append(f"Exact match on {rows}: {shares}.{known}")
    lines.append(f"Serve it: python -m toolkit serve {run.id}{_format_folder_option(run)}")
    return "\n".join(lines)


def make_export_printer(out: Console) -> Callable[[ExportState], None]:
    """Return a function to call at every poll of an export: it prints a line for each new phase."""
    printed: set[str] = set()

    def print_phase(state: ExportState) -> None:
        text = f"{state.form.title}: {state.phase}"
        if state.state == "running" and text not in printed:
            printed.add(text)
            out.print(text)

    return print_phase


def describe_export_end(state: ExportState) -> str:
    """Return the verdict on an export, its folder and each check; for a failed one, the reason."""
    if state.certificate is None or state.folder is None:
        return f"{state.form.title}: {state.message} {state.hint}".strip()
    verdict = VERDICT_WORDS[state.certificate.verdict]
    summary = f" {state.certificate.summary}." if state.certificate.summary else ""
    checks = [
        f"  {'passed' if check.passed else 'FAILED'} {check.name}: {check.detail}" for check in state.certificate.checks
    ]
    absent = [f"  {state.without_main_file}"] if state.without_main_file else []
    return "\n".join([f"{state.form.title}: {verdict}.{summary} {format_path(state.folder)}", *absent, *checks])


def print_ladder(rungs: list[GgufRung], out: Console) -> None:
    """Print the GGUF files side by side, and the smallest that still answers the same."""
    grid = Grid(*LADDER_COLUMNS, box=None, pad_edge=False)
    for rung in rungs:
        grid.add_row(*list_ladder_cells(rung))
    out.print(grid, soft_wrap=False)
    out.print(describe_smallest(rungs))

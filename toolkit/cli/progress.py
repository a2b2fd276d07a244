"""A run and its exports as a terminal shows them: a bar that moves, or lines where nobody watches, and what is left.

Knows the state of a run and rich; starts and stops nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.export.export_state import ExportState
from toolkit.lifecycle.resume_policy import can_resume
from toolkit.runs.run_dir import RunDir, list_runs, read_run_meta, save_dir_of
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.printable import strip_control_characters

ProgressLine = Callable[[RunStatus, int], None]
"""(status, how often Ctrl-C was pressed) -> shown."""


@contextmanager
def show_run_progress(run: RunDir, out: Console) -> Iterator[ProgressLine]:
    """Yields what to call at every look: it moves a bar on a terminal and prints a line for every tenth elsewhere."""
    if not out.is_terminal:
        said: list[str] = []

        def line(status: RunStatus, interrupts: int) -> None:
            text = _describe_activity(run, status, interrupts)
            tenth = int(status.fraction * 10)
            if f"{text}{tenth}" not in said:
                said.append(f"{text}{tenth}")
                steps = (
                    f"  step {status.step}/{status.total_steps}{_format_loss_and_time(status)}" if status.step else ""
                )
                out.print(text + steps)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=out) as progress:
        task = progress.add_task("", total=None, numbers="")

        def bar(status: RunStatus, interrupts: int) -> None:
            doing, total = _describe_activity(run, status, interrupts), status.total_steps or None
            progress.update(
                task, description=doing, completed=status.step, total=total, numbers=_format_loss_and_time(status)
            )

        yield bar


def _describe_activity(run: RunDir, status: RunStatus, interrupts: int) -> str:
    if interrupts > 1 and status.is_active:
        return "ending"
    if status.state == "stopping":
        return "stopping after this step (Ctrl-C again ends it at once)"
    if status.state == "queued" and status.reason == "disk_full":
        return "waiting for space on the disk, then it goes on by itself"
    if status.state == "queued":
        before = sum(not read_run_status(other).has_ended for other in list_runs(run.save_dir) if other.id < run.id)
        return f"waiting: {before} run{'s' if before != 1 else ''} before this one" if before else "starting"
    return status.phase or status.state


def _format_loss_and_time(status: RunStatus) -> str:
    loss = status.last.get("loss")
    left = status.remaining_s
    words = [f"loss {loss:.4f}"] if isinstance(loss, float) else []
    if left is not None:
        words.append(f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
    return "  " + ", ".join(words) if words else ""


def format_run_row(run: RunDir) -> tuple[str, ...]:
    """A run in the list of all: id, name, study, state, steps, loss, exact match."""
    try:
        meta, status = read_run_meta(run), read_run_status(run)
    except ToolkitError as error:
        return run.id, error.message, "", "unreadable", "", "", ""
    loss, match = status.last.get("loss"), status.scores.get("exact_match")
    steps = f"{status.step}/{status.total_steps}" if status.total_steps else ""
    return (
        run.id, strip_control_characters(meta.get("name", "")), strip_control_characters(meta.get("study", "")), status.state, steps,
        f"{loss:.4f}" if isinstance(loss, float) else "", f"{match:.0%}" if isinstance(match, int | float) else "",
    )  # fmt: skip


def describe_run_end(run: RunDir, status: RunStatus) -> str:
    """How it went, where the adapter is and what to do next; for a run that failed why, and where the log is."""
    seconds = f"{status.elapsed_s:.0f} s"
    elsewhere = "" if run.save_dir == save_dir_of(Config()) else f" --save-dir {shlex.quote(format_path(run.save_dir))}"
    go_on = f"\nGo on from step {status.saved_step}: python -m toolkit resume {run.id}{elsewhere}"
    go_on = go_on if can_resume(status) and status.saved_step else ""
    if status.state not in ("finished", "stopped", "paused"):
        told = f"{status.state.capitalize()}: {status.message} {status.hint}".strip()
        return f"{told}\nLog: {format_path(run.log_path)}{go_on}"
    if not status.adapter_ready:
        return f"{status.state.capitalize()} after {seconds}: no adapter was saved. {status.message}".strip() + go_on
    lines = [f"{status.state.capitalize()} after {seconds} and {status.step} steps.{go_on}"]
    lines.append(f"Adapter: {format_path(run.adapter_dir)}")
    base, adapter = status.scores.get("exact_match_base"), status.scores.get("exact_match")
    if isinstance(base, int | float) and isinstance(adapter, int | float):
        rows = status.scores.get("rows", "")
        lines.append(f"Exact match on {rows} test rows: base model {base:.0%}, adapter {adapter:.0%}")
    lines.append(f"Talk to it: python -m toolkit serve {run.id}{elsewhere}")
    return "\n".join(lines)


def make_export_printer(out: Console) -> Callable[[ExportState], None]:
    """What to call at every look at an export: each new phase is a line."""
    said: list[str] = []

    def line(state: ExportState) -> None:
        text = f"{state.form.title}: {state.phase}"
        if state.state == "running" and text not in said:
            said.append(text)
            out.print(text)

    return line


def describe_export_end(state: ExportState) -> str:
    """Where the export is and the verdict on it, check by check; or why there is none."""
    if state.certificate is None or state.folder is None:
        return f"{state.form.title}: {state.message} {state.hint}".strip()
    verdict = "answers as the run did" if state.state == "passed" else "BROKEN, don't use it"
    checks = [
        f"  {'ok ' if check.passed else 'NO '} {check.name}: {check.detail}" for check in state.certificate.checks
    ]
    return "\n".join([f"{state.form.title}: {verdict}. {format_path(state.folder)}", *checks])


def format_path(path: Path) -> str:
    """The path as one would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

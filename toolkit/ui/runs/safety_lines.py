"""Sentences of the Runs page on checkpoints, resumes and early stopping."""

from __future__ import annotations

from toolkit.runs.status import RunStatus
from toolkit.system.printable import format_count, format_figure, format_plural
from toolkit.ui.elements.escape import escape_text


def describe_resume(status: RunStatus) -> str:
    """Return when and from which step an interrupted run continues."""
    start = f"from step {status.saved_step:,}" if status.saved_step else "from the first step"
    if status.reason == "disk_full":
        return f"The run continues automatically {start} as soon as there is enough disk space."
    return f"The run continues automatically {start}." if status.message else f"The run continues {start}."


def safety_lines(status: RunStatus) -> list[str]:
    """Return lines of Streamlit Markdown about resumes, early stopping, the best step and the last checkpoint."""
    lines = []
    if status.verified:
        steps = format_plural(int(status.verified.get("steps") or 0), "replayed step")
        result = "identical" if status.verified.get("exact") else f"equal within {_tolerance_percent(status)}"
        lines.append(f":green[:material/verified:] Resume verified: {steps} {result}.")
    if status.early:
        evaluations = format_plural(int(status.early.get("evaluations") or 0), "evaluation")
        lines.append(
            f":material/flag: Stopped early at step {format_count(status.early.get('step'))}: "
            f"{evaluations} without a lower test loss."
        )
    if status.best:
        loss = format_figure(status.best.get("eval_loss"))
        lines.append(f":material/star: Lowest test loss: {loss} at step {format_count(status.best.get('step'))}.")
    if status.is_active and (status.saved_step or status.attempt > 1):
        checkpoint = f" Last checkpoint: step {status.saved_step:,}." if status.saved_step else ""
        attempt = f" Attempt {status.attempt}." if status.attempt > 1 else ""
        reason = (
            f" The previous attempt ended: {escape_text(status.broke_off, 300)}"
            if status.broke_off and status.attempt > 1
            else ""
        )
        lines.append(f":material/shield:{checkpoint}{attempt}{reason}")
    return lines


def _tolerance_percent(status: RunStatus) -> str:
    return f"{100 * float(status.verified.get('tolerance') or 0):g} %"

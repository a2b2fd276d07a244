"""What the run page says about checkpoints and resumes: what is safe, what was proved, what happens next. Pure."""

from __future__ import annotations

from toolkit.runs.status import RunStatus
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_figure, format_plural


def describe_resume(status: RunStatus) -> str:
    """When and from where a run that broke off goes on."""
    where = f"from step {status.saved_step:,}" if status.saved_step else "from its first step"
    if status.reason == "disk_full":
        return f"It goes on by itself {where} as soon as there is space again."
    return f"It goes on by itself {where}; there is nothing to do." if status.message else f"It goes on {where}."


def safety_lines(status: RunStatus) -> list[str]:
    """Lines of Streamlit's markdown, the most lasting first."""
    lines = []
    if status.verified:
        steps = format_plural(int(status.verified.get("steps") or 0), "replayed step")
        how = "identical" if status.verified.get("exact") else f"equal within {_tolerance_percent(status)}"
        lines.append(f":green[:material/verified:] Resume verified: {steps} {how}.")
    if status.early:
        since = format_plural(int(status.early.get("evaluations") or 0), "evaluation")
        lines.append(
            f":material/flag: Ended early at step {status.early.get('step'):,}: {since} without a lower test loss."
        )
    if status.best:
        loss = format_figure(status.best.get("eval_loss"))
        lines.append(f":material/star: Lowest test loss {loss}, at step {status.best.get('step'):,}.")
    if status.is_active and (status.saved_step or status.attempt > 1):
        saved = f" Checkpoint at step {status.saved_step:,}." if status.saved_step else ""
        tries = f" Attempt {status.attempt}." if status.attempt > 1 else ""
        why = (
            f" The one before: {escape_text(status.broke_off, 300)}" if status.broke_off and status.attempt > 1 else ""
        )
        lines.append(f":material/shield:{saved}{tries}{why}")
    return lines


def _tolerance_percent(status: RunStatus) -> str:
    return f"{100 * float(status.verified.get('tolerance') or 0):g} %"

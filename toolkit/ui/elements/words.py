"""Labels of states and outcomes, and formats of numbers, sizes and durations, for every page."""

from __future__ import annotations

import re

# state -> (label, icon, color of Streamlit's markdown)
STATE_LABELS = {
    "queued": ("Queued", ":material/hourglass_top:", "gray"),
    "starting": ("Starting", ":material/rocket_launch:", "blue"),
    "running": ("Running", ":material/play_circle:", "blue"),
    "stopping": ("Finishing the step", ":material/hourglass_bottom:", "orange"),
    "finished": ("Finished", ":material/check_circle:", "green"),
    "paused": ("Paused", ":material/pause_circle:", "orange"),
    "stopped": ("Stopped", ":material/stop_circle:", "gray"),
    "cancelled": ("Cancelled", ":material/cancel:", "gray"),
    "failed": ("Failed", ":material/error:", "red"),
    "interrupted": ("Interrupted", ":material/power_off:", "orange"),
}
# verdict on a figure, adapter against base model -> (label, icon, color)
VERDICT_LABELS = {
    "better": ("better", ":material/trending_up:", "green"),
    "worse": ("worse", ":material/trending_down:", "red"),
    "noise": ("within noise", ":material/drag_handle:", "gray"),  # the interval includes no change
    "differs": ("differs", ":material/change_history:", "blue"),
    "unknown": ("unknown", ":material/help:", "gray"),
}
# outcome of a row, adapter against base model -> (label, symbol, color)
OUTCOME_LABELS = {
    "fixed": ("Fixed", "▲", "green"),
    "broke": ("Broke", "▼", "red"),
    "same": ("Unchanged (correct)", "=", "gray"),
    "both wrong": ("Unchanged (wrong)", "✕", "orange"),
    "no expected answer": ("No expected answer", "·", "gray"),
    "seen in training": ("Seen in training", "◦", "gray"),
}


def format_duration(seconds: float | None) -> str:
    """Format a duration: 7 -> "7 s", 95 -> "1 min 35 s", 4000 -> "1 h 06 min"; None -> "–"."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def about_duration(seconds: float) -> str:
    """Return the duration rounded to the accuracy of a forecast: 5 s, 1 min from 90 s, 10 min from 1 h."""
    if seconds >= 3600:
        return f"about {format_duration(round(seconds / 600) * 600).removesuffix(' 00 min')}"
    if seconds < 90:
        return f"about {format_duration(round(seconds / 5) * 5 or 5)}"
    return f"about {format_duration(round(seconds / 60) * 60).removesuffix(' 00 s')}"


def format_count(number: int | None) -> str:
    """Format a count: 1234567 -> "1,234,567"; None -> "–"."""
    return "–" if number is None else f"{number:,}"


def format_plural(number: int, noun: str) -> str:
    """Format a count with its noun: (1, "row") -> "1 row"; (3, "row") -> "3 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(number: float | None) -> str:
    """Format bytes with a binary unit: 5_400_000 -> "5.1 MiB"; None -> "–"."""
    if number is None:
        return "–"
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_share(fraction: float | None) -> str:
    """Format a fraction as a percentage: 0.9875 -> "98.8 %"; None -> "–".

    "100 %" and "0 %" mean exactly all and nothing: 0.9999 is "99.9 %".
    """
    if fraction is None:
        return "–"
    rounded = min(max(fraction, 0.001), 0.999) if 0 < fraction < 1 else fraction
    return f"{100 * rounded:.1f} %".replace(".0 %", " %")


def format_figure(number: float | None) -> str:
    """Format a loss or a rate: 0.25 -> "0.25", 11800.0 -> "11,800", -0.5 -> "−0.5", 2e-05 -> "2e−5"; None -> "–"."""
    if number is None:
        return "–"
    text = f"{number:,.0f}" if 1000 <= abs(number) < 1e15 else f"{number:.4g}"
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), text).replace("-", "−")


def short_model_name(checkpoint: str) -> str:
    """Return the last part of a Hub id or a path: "bundled:demo-model" -> "demo-model"."""
    return checkpoint.removeprefix("bundled:").rstrip("/").rpartition("/")[2] or checkpoint

"""Numbers, times and states in words: the one vocabulary of every screen. Pure, no Streamlit."""

from __future__ import annotations

# state -> (word, icon, colour of Streamlit's markdown)
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
# what became of a figure from base to adapter -> (word, icon, colour)
VERDICT_LABELS = {
    "better": ("better", ":material/trending_up:", "green"),
    "worse": ("worse", ":material/trending_down:", "red"),
    "noise": ("within noise", ":material/drag_handle:", "gray"),
    "differs": ("differs", ":material/change_history:", "blue"),
    "unknown": ("unknown", ":material/help:", "gray"),
}
# what became of a row from base to adapter -> (word, mark, colour)
OUTCOME_LABELS = {
    "fixed": ("Fixed", "▲", "green"),
    "broke": ("Broke", "▼", "red"),
    "same": ("Same", "=", "gray"),
    "both wrong": ("Both wrong", "✕", "orange"),
    "no expected answer": ("Not judged", "·", "gray"),
}


def format_duration(seconds: float | None) -> str:
    """7 -> "7 s", 95 -> "1 min 35 s", 4000 -> "1 h 06 min"; None -> "–"."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_count(number: int | None) -> str:
    """1234567 -> "1,234,567"; None -> "–"."""
    return "–" if number is None else f"{number:,}"


def format_plural(number: int, noun: str, many: str | None = None) -> str:
    """(1, "row") -> "1 row"; (3, "row") -> "3 rows"."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def format_bytes(number: float | None) -> str:
    """Bytes with a binary unit: 5_400_000 -> "5.1 MiB"."""
    if number is None:
        return "–"
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_share(fraction: float | None) -> str:
    """0.9875 -> "98.8 %"; "100 %" is all and "0 %" nothing, 0.9999 is "99.9 %"; None -> "–"."""
    if fraction is None:
        return "–"
    rounded = min(max(fraction, 0.001), 0.999) if 0 < fraction < 1 else fraction
    return f"{100 * rounded:.1f} %".replace(".0 %", " %")


def format_figure(number: float | None) -> str:
    """A loss or a rate with four significant digits."""
    return "–" if number is None else f"{number:.4g}"


def short_model_name(checkpoint: str) -> str:
    """The last part of a hub id or a path: "bundled:demo-model" -> "demo-model"."""
    return checkpoint.removeprefix("bundled:").rstrip("/").rpartition("/")[2] or checkpoint

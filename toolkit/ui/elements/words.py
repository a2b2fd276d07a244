"""Labels of states and outcomes, for every page."""

from __future__ import annotations

# state -> (label, icon, color of Streamlit's markdown)
STATE_LABELS = {
    "queued": ("Queued", ":material/hourglass_top:", "gray"),
    "starting": ("Starting", ":material/rocket_launch:", "blue"),
    "running": ("Running", ":material/play_circle:", "blue"),
    "stopping": ("Finishing the step", ":material/hourglass_bottom:", "orange"),
    "finished": ("Finished", ":material/check_circle:", "green"),
    "paused": ("Paused", ":material/pause_circle:", "orange"),
    "stopped": ("Stopped", ":material/stop_circle:", "gray"),
    "cancelled": ("Canceled", ":material/cancel:", "gray"),
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

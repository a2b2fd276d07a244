"""Labels of states and outcomes, for every page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

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


def distinguish_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a different label for each value of a choice: the end of the value follows those that are not unique.

    Streamlit keeps a choice by its label: of two equal labels, only the first can be chosen.
    """
    counts, found = Counter(labels.values()), dict[str, str]()
    for value, label in labels.items():
        shown = unique = label if counts[label] == 1 else f"{label} ({value[-4:]})"
        number = 2
        while unique in found.values():
            unique, number = f"{shown} ({number})", number + 1
        found[value] = unique
    return found

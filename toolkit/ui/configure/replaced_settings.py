"""Many settings replaced at once: presets and "Reset all". Both keep dataset, templates and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from toolkit.settings import draft as drafts
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.import_export import PRESET_SECTIONS, Preset, apply_preset, find_preset_changes
from toolkit.system.printable import format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace

MAX_NAMED_CHANGES = 12
"""Changes that a button's help or a question names; more are counted."""
RESET_PANEL_KEY = "reset_all_panel"


def describe_preset(preset: Preset) -> str:
    """Return the help of a preset's button: what it is for, what it changes now, and what it keeps."""
    changes = find_preset_changes(preset, workspace.current_draft())
    listed = (
        f"Changes {format_plural(len(changes), 'setting')}: {_list_changes(changes)}."
        if changes
        else "Its settings are already in use: it changes nothing now."
    )
    return f"{escape_text(preset.description, 400)}\n\n{listed}\n\nKeeps the dataset, its templates and the split."


def use_preset(preset: Preset) -> str:
    """Apply a preset to the draft, and return a sentence on what changed.

    Values that a study varies are dropped for settings of the preset; a study without any other is switched off.
    """
    draft, grid = workspace.current_draft(), workspace.current_grid()
    changes = find_preset_changes(preset, draft)
    kept = {path: values for path, values in grid.items() if path.split(".")[0] not in PRESET_SECTIONS}
    new = apply_preset(preset, draft)
    if grid and not kept:
        new = drafts.replace_setting(new, "ablation.use_ablate", False)
    workspace.replace_draft(_withdraw_acceptance(draft, new), kept)
    count = format_plural(len(changes), "setting")
    return f"“{preset.title}” changed {count}. Dataset, templates and split are kept."


def draw_reset_all() -> None:
    """Draw "Reset all", which asks first; nothing if only the dataset differs from the defaults."""
    draft, grid = workspace.current_draft(), workspace.current_grid()
    changes = drafts.find_differences(draft, drafts.reset_except_data(draft))
    labels = [name_setting(path) for path in dict.fromkeys([*grid, *(change.path for change in changes)])]
    if not labels:
        return
    with st.popover("Reset all", type="tertiary", key=RESET_PANEL_KEY, on_change="rerun"):
        named = ", ".join(labels[:MAX_NAMED_CHANGES]) + _count_others(len(labels))
        st.markdown(f"Reset **{format_plural(len(labels), 'setting')}** to the defaults? {escape_text(named, 800)}.")
        st.caption("The dataset, its templates and the split are kept.")
        st.button(f"Reset {format_plural(len(labels), 'setting')}", key="reset_all", on_click=_reset_all)


def _reset_all() -> None:
    """`workspace.restore_previous_draft` undoes it."""
    draft = workspace.current_draft()
    workspace.replace_draft(_withdraw_acceptance(draft, drafts.reset_except_data(draft)))
    st.session_state[RESET_PANEL_KEY] = False


def _withdraw_acceptance(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the new draft; blocking problems that were accepted for other tokens are no longer accepted."""
    changed = {change.path for change in drafts.find_differences(old, new)}
    return new if changed.isdisjoint(workspace.TOKEN_SETTINGS) else drafts.replace_setting(new, "data.accepted", None)


def _list_changes(changes: Sequence[drafts.SettingChange]) -> str:
    named = [
        f"{name_setting(path)} {describe_value(path, old)} → {describe_value(path, new)}"
        for path, old, new in ((each.path, each.default, each.value) for each in changes[:MAX_NAMED_CHANGES])
    ]
    return escape_text("; ".join(named), 1200) + _count_others(len(changes))


def _count_others(total: int) -> str:
    return f" and {total - MAX_NAMED_CHANGES} more" if total > MAX_NAMED_CHANGES else ""

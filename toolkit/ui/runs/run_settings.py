"""Settings of a run: the differences from the defaults or from another run, and the whole config file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from toolkit.runs.run_dir import RunDir
from toolkit.settings.draft import default_draft
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.yaml_file import read_config_text
from toolkit.ui.data.version_view import show_run_version
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace.run_entries import RunEntry, label_runs
from toolkit.ui.workspace.run_facts import config_differences, read_run_summary

HEADER_SECTIONS = ("data", "ablation", "save_dir", "model.hf_model_ckpt")
"""Settings that the header does not list: it names model, dataset and study itself."""
MAX_HEADER_SETTINGS = 5
FOLLOW_OPTIONS = {
    "TensorBoard": "--tensorboard boards",
    "MLflow": "--mlflow http://localhost:5000",
    "Weights & Biases (offline)": "--wandb offline",
}


def draw_run_header(run: RunDir) -> None:
    """Draw what the run trains: model, dataset with its version, study, and settings that are not the defaults."""
    summary = read_run_summary(run)
    parts = [f"**{escape_text(summary.model, 80)}** on **{escape_text(summary.dataset_name or 'its data', 100)}**"]
    if summary.study:
        parts.append(f"study **{escape_text(summary.study, 80)}**")
    changed = [
        f"{name_setting(path)} {describe_value(path, value)}"
        for path, value in summary.changes.items()
        if not any(path == section or path.startswith(f"{section}.") for section in HEADER_SECTIONS)
    ]
    more = len(changed) - MAX_HEADER_SETTINGS
    listed = ", ".join(changed[:MAX_HEADER_SETTINGS]) + (f" and {more} more" if more > 0 else "")
    parts.append(escape_text(listed, 400) if changed else "default settings")
    st.markdown(" · ".join(parts))


def draw_run_settings(run: RunDir, others: Sequence[RunEntry]) -> None:
    """Draw the differences from the defaults or from another run. others: the runs to choose from."""
    summary = read_run_summary(run)
    choices: dict[str, str] = {"": "Defaults"} | label_runs([one for one in others if one.run.id != run.id])
    compared_id = st.selectbox("Compare with", list(choices), format_func=choices.__getitem__, key="compare_with")
    other = next((entry.facts for entry in others if entry.run.id == compared_id), None)
    differences = config_differences(other.config if other else default_draft(), summary.config)
    show_run_version(summary.dataset)
    if not differences:
        st.caption(":material/equal: All settings are equal.")
    else:
        name = other.name if other else "Default"
        if other and other.name == summary.name:
            name = f"{name} ({compared_id})"
        frame = pd.DataFrame(
            [
                (name_setting(path), describe_value(path, theirs), describe_value(path, ours), path)
                for path, theirs, ours in differences
            ],
            columns=["Setting", name, "This run", "Config key"],
        )
        st.dataframe(frame, hide_index=True, alt="Settings that differ")
    for path, reason in summary.chosen.items():
        st.caption(
            f":material/tune: {escape_text(name_setting(path))} was chosen automatically. {escape_text(reason, 400)}."
        )
    with st.expander("Config file", icon=":material/description:"):
        st.code(read_config_text(run.config_path), language=None, height=360)
    if run.accelerate_path.is_file():
        with st.expander("Config file for accelerate launch", icon=":material/account_tree:"):
            st.code(read_config_text(run.accelerate_path), language=None)
    with st.expander("Trackers and notifications", icon=":material/monitoring:"):
        _draw_follow_commands(run)


def _draw_follow_commands(run: RunDir) -> None:
    """Draw the commands that copy the run's measurements elsewhere; secrets are typed where the command runs."""
    command = f"python -m toolkit follow {run.id} --save-dir {shlex.quote(str(run.save_dir))}"
    st.caption(
        "Each command copies the measurements of this run, also while it trains. Run it in a terminal, after "
        "`pip install -r requirements-follow.txt`. docs/follow.md explains the options."
    )
    for tracker, option in FOLLOW_OPTIONS.items():
        st.text(tracker)
        st.code(f"{command} {option}", language="bash", wrap_lines=True)
    st.text("A message when the run ends, fails or waits")
    st.code(f'read -rsp "Address: " FTK_NOTIFY && export FTK_NOTIFY && {command}', language="bash", wrap_lines=True)
    st.caption("The terminal asks for the address, an https:// webhook or any of apprise, and does not show it.")

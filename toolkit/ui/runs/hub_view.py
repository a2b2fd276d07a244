"""Push of a verified export to the Hugging Face Hub. The page never asks for a token."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.export_forms import ExportForm
from toolkit.export.hub_push import HubPush, read_hub_state, start_push
from toolkit.runs.run_dir import RunDir
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text


def draw_hub_push(run: RunDir, verified: Sequence[ExportForm]) -> None:
    """Draw the form and the state of the last push. verified: the exports whose certificates passed."""
    state = read_hub_state(run)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        disabled = not verified or state.state == "running"
        with st.popover(
            "Push to the Hugging Face Hub", icon=":material/cloud_upload:", width="content", disabled=disabled
        ):
            _draw_push_form(run, verified)
        if not verified:
            st.caption("Only a verified export can be pushed.", width="content")
        elif state.state == "running":
            st.badge(escape_text(state.phase.capitalize()), icon=":material/hourglass_top:", color="blue")
        elif state.state == "failed":
            st.markdown(f":small[:red[{escape_text(state.message, 500)}] {escape_text(state.hint, 500)}]")
        elif state.state == "done":
            st.badge("Pushed", icon=":material/cloud_done:", color="green")
            st.code(state.message, language=None)


def _draw_push_form(run: RunDir, verified: Sequence[ExportForm]) -> None:
    with st.form(f"push_{run.id}", border=False):
        titles = {form.key: form.title for form in verified}
        form = st.selectbox("Export", list(titles), format_func=lambda key: titles[key])
        repo = st.text_input("Repository", placeholder="owner/name", max_chars=200)
        private = st.toggle("Private", value=True)
        golden = st.toggle(
            "Include the golden prompts",
            value=False,
            help="They contain rows of your data. With them, others can verify their copy.",
        )
        st.caption(
            "Uses your Hub login (`hf auth login`) or HF_TOKEN, which is not stored. The model card is included, "
            "without paths on this machine."
        )
        if st.form_submit_button("Push", icon=":material/cloud_upload:"):
            try:
                start_push(run, HubPush(form or "", (repo or "").strip(), private=private, golden=golden))
            except ToolkitError as error:
                show_error(error)
                return
            st.rerun()

"""Pushing a checked export to the hub: what goes where, and what stays at home. The token is never asked for here."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.export_state import ExportForm
from toolkit.export.hub_push import HubPush, read_hub_state, start_push
from toolkit.runs.run_dir import RunDir
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text


def draw_hub_push(run: RunDir, ready: Sequence[ExportForm]) -> None:
    """The form, and how the last push is going. ready: the exports that passed their certificates."""
    state = read_hub_state(run)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        off = not ready or state.state == "running"
        with st.popover("Push to the Hugging Face Hub", icon=":material/cloud_upload:", width="content", disabled=off):
            _draw_push_form(run, ready)
        if not ready:
            st.caption("Only an export that answers as the run did can be pushed.", width="content")
        elif state.state == "running":
            st.badge(escape_text(state.phase.capitalize()), icon=":material/hourglass_top:", color="blue")
        elif state.state == "failed":
            st.markdown(f":small[:red[{escape_text(state.message, 500)}] {escape_text(state.hint, 500)}]")
        elif state.state == "passed":
            st.badge("Pushed", icon=":material/cloud_done:", color="green")
            st.code(state.message, language=None)


def _draw_push_form(run: RunDir, ready: Sequence[ExportForm]) -> None:
    with st.form(f"push_{run.id}", border=False):
        titles = {form.key: form.title for form in ready}
        form = st.selectbox("What", list(titles), format_func=lambda key: titles[key])
        repo = st.text_input("Repository", placeholder="owner/name", max_chars=200)
        private = st.toggle("Private", value=True)
        golden = st.toggle("Send the golden prompts too", value=False,
                           help="They are rows of your data; with them others can check their copy.")  # fmt: skip
        st.caption("The login is the hub's own (`hf auth login`) or HF_TOKEN; it is not kept. The card goes along, "
                   "paths of this machine stay here.")  # fmt: skip
        if st.form_submit_button("Push", type="primary", icon=":material/cloud_upload:"):
            try:
                start_push(run, HubPush(form or "", (repo or "").strip(), private=private, golden=golden))
            except ToolkitError as error:
                show_error(error)
                return
            st.rerun()

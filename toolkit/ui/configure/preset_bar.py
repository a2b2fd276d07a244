"""The bar above the form: presets, import and export of a YAML file, and undo."""

from __future__ import annotations

import streamlit as st

from toolkit.errors import ConfigError, Problem
from toolkit.settings import import_export
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.settings.form_layout import get_field_layout
from toolkit.settings.import_export import Preset, load_presets
from toolkit.system.printable import format_plural
from toolkit.ui.configure.replaced_settings import describe_preset, use_preset
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.people.own_paths import find_foreign_paths
from toolkit.ui.workspace import workspace

SETTINGS_FILE = "config.yml"
RUN_COMMAND = f"python -m toolkit run {SETTINGS_FILE}"
_NOTICE = "transfer_notice"


def draw_preset_bar() -> None:
    """Draw a button for each preset, then Undo, Import and Export."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(":gray[Start from]", width="content")
        for preset in load_presets():
            st.button(
                preset.title,
                key=f"preset:{preset.name}",
                help=describe_preset(preset),
                on_click=_apply_preset,
                args=(preset,),
            )
        st.space("stretch")
        if workspace.has_previous_draft():
            st.button(
                "Undo",
                icon=":material/undo:",
                type="tertiary",
                key="undo_replace",
                help="Undo the last preset, import or reset",
                on_click=_undo,
            )
        if st.button("Import settings", icon=":material/upload_file:", key="open_import"):
            import_settings_dialog()
        if st.button("Export settings", icon=":material/download:", key="open_export"):
            export_settings_dialog()
    notice = st.session_state.pop(_NOTICE, None)
    if notice:
        st.toast(escape_text(notice, 300), icon=":material/check:")


@st.dialog("Import settings", width="large", icon=":material/upload_file:")
def import_settings_dialog() -> None:
    """Import an uploaded or pasted YAML file; a file with any invalid setting changes nothing."""
    st.caption("A config file of this toolkit or of the original one. Missing settings get their defaults.")
    uploaded = st.file_uploader("YAML file", type=["yml", "yaml"], max_upload_size=1, key="import_file")
    pasted = st.text_area("Or paste it here", height=200, key="import_text", placeholder="model:\n  quantize: true")
    # never disabled: pasted text arrives only when the text area loses the focus, which this press causes
    if not st.button("Use these settings", type="primary", key="import_apply"):
        return
    if uploaded is None and not pasted.strip():
        st.warning("Choose a file or paste its text.", icon=":material/info:")
        return
    try:
        text = pasted if pasted.strip() or uploaded is None else decode_upload(uploaded.getvalue())
        found = import_export.import_settings(text)
        if foreign := find_foreign_paths(found.draft, found.grid):
            raise ConfigError(foreign)
    except ConfigError as error:
        _show_problems(error)
        return
    workspace.replace_draft(found.draft, found.grid)
    st.session_state[_NOTICE] = "The settings were imported."
    st.rerun()


@st.dialog("Export settings", width="large", icon=":material/download:")
def export_settings_dialog() -> None:
    """Show the draft as a YAML file to download, and the command that runs it."""
    text = import_export.export_settings(workspace.current_draft(), workspace.current_grid())
    st.caption("Download the file, then start the same run from the command line:")
    st.code(RUN_COMMAND, language=None)
    st.download_button(
        f"Download {SETTINGS_FILE}",
        text,
        file_name=SETTINGS_FILE,
        mime="application/yaml",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        key="export_download",
    )
    st.code(text, language=None, height=420)


def decode_upload(data: bytes) -> str:
    """Return the text of an uploaded file. Raises: ConfigError if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The file is not UTF-8 text: byte {error.start} can't be decoded."
        problem = Problem("", message, "Save it as UTF-8 and import it again.")
        raise ConfigError([problem]) from error


def _show_problems(error: ConfigError) -> None:
    count = len(error.problems)
    st.error(f"Nothing was changed: {format_plural(count, 'setting')} can't be used.", icon=":material/error:")
    for problem in error.problems[:50]:
        label = (
            f"**{escape_text(get_field_layout(problem.path).label)}** " if problem.path in field_specs_by_path() else ""
        )
        name = f":gray[{escape_text(problem.path)}]  \n" if problem.path else ""
        st.markdown(f"{label}{name}{escape_text(problem.message, 500)} {escape_text(problem.hint, 500)}")


def _apply_preset(preset: Preset) -> None:
    st.session_state[_NOTICE] = use_preset(preset)


def _undo() -> None:
    workspace.restore_previous_draft()
    st.session_state[_NOTICE] = "The previous settings were restored."

"""The workspace survives the session: draft, grid and choices are restored, and a damaged file is renamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from toolkit.config import DataConfig
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.ui.workspace import current_dataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path))
    return tmp_path


def session(script: Callable[[], None]) -> AppTest:
    app = AppTest.from_function(script, default_timeout=20).run()
    assert not app.exception
    return app


def change() -> None:
    from toolkit.ui.workspace import workspace

    workspace.set_setting("lora.r", 8)
    workspace.set_grid({"lora.lora_alpha": [8, 16]})


def show() -> None:
    import streamlit as st

    from toolkit.ui.workspace import workspace

    workspace.refresh_workspace()
    st.text(str(workspace.current_setting("lora.r")))
    st.text(str(workspace.current_grid()))
    st.text(str(workspace.draft_version()))
    st.text(str(workspace.current_save_dir()))
    st.text(str(st.session_state.get("workspace_notice")))


def replace() -> None:
    import streamlit as st

    from toolkit.settings.draft import default_draft, replace_setting
    from toolkit.ui.workspace import workspace

    workspace.replace_draft(replace_setting(default_draft(), "lora.r", 4), {"lora.r": [1, 2]})
    assert workspace.current_setting("lora.r") == 4
    workspace.restore_previous_draft()
    st.text(str(workspace.current_setting("lora.r")))


def test_a_new_session_loads_draft_and_grid(home: Path) -> None:
    session(change)
    texts = [entry.value for entry in session(show).text]
    assert texts[:2] == ["8", "{'lora.lora_alpha': [8, 16]}"]
    assert texts[3] == str(home)


def test_a_change_in_another_tab_is_loaded_on_the_next_rerun(home: Path) -> None:
    first = session(show)
    assert first.text[0].value == "16"
    session(change)
    first.run()
    assert [entry.value for entry in first.text][:3:2] == ["8", "1"]


def edit() -> None:
    import streamlit as st

    from toolkit.ui.forms import form
    from toolkit.ui.workspace import workspace

    workspace.refresh_workspace()
    st.button("edit", on_click=workspace.set_setting, args=("lora.lora_dropout", 0.5))
    st.button("try", on_click=form.set_grid_values, args=("lora.bias", ["none", "all"]))
    st.button("templates", on_click=workspace.replace_templates, args=("{message}", "{answer}!"))


def test_a_callback_does_not_overwrite_changes_of_another_tab(home: Path) -> None:
    first = session(edit)
    first.button[0].click().run()
    session(change)
    first.button[1].click().run()
    saved = json.loads((home / "draft.json").read_text())
    assert (saved["draft"]["lora"]["r"], saved["draft"]["lora"]["lora_dropout"]) == (8, 0.5)
    assert saved["grid"] == {"lora.lora_alpha": [8, 16], "lora.bias": ["none", "all"]}
    session(switch_conversations)
    first.button[2].click().run()
    saved = json.loads((home / "draft.json").read_text())["draft"]["data"]
    assert (saved["messages"], saved["prompt_stub"]) == ("chat", "{answer}!")


def switch_conversations() -> None:
    from toolkit.ui.workspace import workspace

    workspace.set_setting("data.accepted", ["double_bos"])
    workspace.choose_messages("chat")
    assert workspace.current_setting("data.accepted") is None


def hopeless() -> None:
    import streamlit as st

    from toolkit.ui.workspace import workspace

    if st.session_state.get("path"):
        workspace.set_setting("data.path", st.session_state["path"])
    st.text(str(workspace.current_table() is None))
    if st.button("again"):
        try:
            workspace.choose_dataset("csv", str(workspace.current_setting("data.path")))
        except Exception as error:
            st.text(str(error))


def test_a_failed_dataset_is_not_reopened_on_every_rerun(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(data: DataConfig, save_dir: Path) -> Table:
        asked.append(str(data.path))
        raise DataError("The hub can't be reached.")

    monkeypatch.setattr(current_dataset, "open_or_wait", refuse)
    app = session(hopeless)
    app.run()
    assert len(asked) == 1
    app.session_state["path"] = "owner/name"
    app.run().run()
    assert asked[1:] == ["owner/name"]
    app.button[0].click().run()
    assert asked[1:] == ["owner/name"] * 2, "whoever asks for it is not put off"


def other_rows() -> None:
    from pathlib import Path

    import numpy as np
    import streamlit as st

    from toolkit.data.table import Table
    from toolkit.ui.data import table_view

    first, second = (Table(Path(name), "same", "rows.csv", ("a",), rows, {}) for name, rows in (("1", 9), ("2", 3)))
    table_view.show_only_rows(first, "Duplicates", np.array([5, 8]))
    st.text(str(table_view._filtered_rows(second) is None))
    st.text(str(len(table_view._filtered_rows(first))))


def test_filtered_rows_belong_to_one_version_of_a_table() -> None:
    assert [entry.value for entry in session(other_rows).text] == ["True", "2"]


def after_a_fix() -> None:
    from pathlib import Path

    import streamlit as st

    from toolkit.data.table import Table
    from toolkit.ui.data import doctor_view
    from toolkit.ui.workspace import workspace

    change = ("digest", {"data.prompt": "{message}?"}, {"data.prompt": "{message}"})
    st.session_state.setdefault(doctor_view._CHANGED, change)
    doctor_view._undo_fix_line(Table(Path("t"), "digest", "rows.csv", ("message",), 9, {}))
    st.button("edit", on_click=workspace.set_setting, args=("data.prompt", "{message}, edited"))


def test_undoing_a_repair_keeps_later_changes(home: Path) -> None:
    app = session(after_a_fix)
    assert [entry.label for entry in app.button] == ["Undo", "edit"]
    app.button[1].click().run()
    assert [entry.label for entry in app.button] == ["edit"]


def test_replacing_can_be_undone(home: Path) -> None:
    session(change)
    assert session(replace).text[0].value == "8"
    assert session(show).text[1].value == "{'lora.lora_alpha': [8, 16]}"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"schema": 99, "draft": {}, "grid": {}}', '{"schema": 1}',
     '{"schema": 1, "draft": {}, "grid": {"lora.r": 8}}'],
)  # fmt: skip
def test_a_damaged_file_is_renamed_and_reported(home: Path, content: str) -> None:
    (home / "draft.json").write_text(content)
    texts = [entry.value for entry in session(show).text]
    assert texts[0] == "16"
    assert "could not be read" in texts[4]
    assert (home / "draft.unreadable.json").read_text() == content


def test_a_folder_in_place_of_the_file_is_renamed(home: Path) -> None:
    (home / "draft.json").mkdir()
    assert session(show).text[0].value == "16"
    assert (home / "draft.unreadable.json").is_dir() and not (home / "draft.json").is_dir()


def test_missing_settings_get_their_defaults(home: Path) -> None:
    (home / "draft.json").write_text(json.dumps({"schema": 1, "draft": {"lora": {"r": 2}}, "grid": {}}))
    assert session(show).text[0].value == "2"

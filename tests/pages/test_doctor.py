"""Data checks on the pages: findings with their fixes, accepted findings, and the note about them on Configure."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.conftest import Stage, button, words
from toolkit.config import DataConfig
from toolkit.data.doctor import examinations
from toolkit.data.storage.open_table import open_table
from toolkit.data.storage.uploads import store_upload
from toolkit.services import warm_client
from toolkit.settings.draft import default_draft
from toolkit.system.durable import durable_write


def bring(stage: Stage, rows: str) -> Stage:
    """Let the draft of a workspace name a file with these rows of a question and an answer."""
    path = store_upload(f"q,a\n{rows}".encode(), "brought.csv", stage.folder)
    draft = default_draft()
    draft["data"] |= {"path": str(path), "prompt": "{q}", "prompt_stub": "{a}"}
    draft["save_dir"] = str(stage.folder)
    durable_write(stage.folder / "draft.json", json.dumps({"schema": 1, "draft": draft, "grid": {}}))
    return stage


@pytest.fixture
def faulty(stage: Stage) -> Stage:
    """A workspace whose draft names a file with a duplicate and an empty answer."""
    rows = "".join(f"what is {i}?,it is {i}!\n" for i in range(20))
    return bring(stage, f"{rows}what is 3?,it is 3!\nwhat is 99?, \n")


def checked(app: AppTest, wanted: str) -> AppTest:
    """Return the page once it shows these words; fail after two minutes."""
    end = time.monotonic() + 120
    while wanted not in words(app):
        assert time.monotonic() < end, words(app)
        time.sleep(0.2)
        app = app.run()
    return app


def test_configure_names_the_version_and_says_a_missing_cell_once(stage: Stage) -> None:
    rows = "".join(f"what is {i}?,it is {i}!\n" for i in range(20))
    bring(stage, f"{rows}what is 3?,it is 3!\nwhat is 99?,\n")
    app = checked(stage.page("data"), "Exact duplicates")
    checked(button(app, "Remove 1 row").click().run(), "Version 2")
    app = checked(stage.page("configure"), "**1 finding in the data**")
    text = words(app)
    assert "Missing cells (1 row)" in text and "will be skipped" not in text
    assert "Dataset path: bundled:orders.csv → **brought.csv (version 2)**" in text
    assert "Train **demo-model** on **brought.csv (version 2)**" in text


def test_a_fix_creates_a_version_and_undo_reverts_it(faulty: Stage) -> None:
    app = checked(faulty.page("data"), "Empty answers")
    assert "1 row repeats the prompt and answer of an earlier row" in words(app)
    app = checked(button(app, "Remove 1 row").click().run(), "Version 2")
    assert "21 rows" in words(app)
    app = faulty.checked(button(app, "Undo").click().run())
    assert "22 rows" in words(app)
    assert len(list(Path(faulty.folder / "uploads" / "versions").glob("*.parquet"))) == 1


def test_a_fix_that_removes_most_rows_asks_first(stage: Stage) -> None:
    rows = "".join(f"what is {i}?,{'NA' if i > 3 else f'it is {i}!'}\n" for i in range(20))
    app = checked(bring(stage, rows).page("data"), "Words for a missing value")
    assert "4 rows would remain" in words(app)
    app = stage.checked(button(app, "Remove 16 rows").click().run())
    assert "This removes 16 of 20 rows. Only 4 rows would remain." in words(app)
    assert "Version 2" not in words(app)
    app = stage.checked(button(app, "Cancel").click().run())
    assert "Only 4 rows" not in words(app)
    app = button(app, "Remove 16 rows").click().run()
    app = checked(button(app, "Remove them and keep 4 rows").click().run(), "Version 2")
    assert "4 rows" in words(app)


def test_findings_stay_visible_while_a_new_version_is_checked(faulty: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    app = checked(faulty.page("data"), "Empty answers")
    with monkeypatch.context() as slow:
        slow.setattr(examinations, "EXAMINE_DELAY_S", 20.0)
        app = faulty.checked(button(app, "Remove 1 row").click().run())
        assert "Checking again" in words(app)
        assert "1 row repeats the prompt and answer of an earlier row" in words(app)
    examinations.forget_examination(
        next(key for key, one in examinations._running.items() if not one.over)
    )  # so that it starts again without that delay
    app = checked(app.run(), "**1 finding**")
    assert "Checking again" not in words(app)


def test_accepting_a_blocking_problem_does_not_restart_the_checks(faulty: Stage) -> None:
    data = DataConfig(path=str(faulty.folder / "draft.json"), prompt="{q}", prompt_stub="{a}")
    table = open_table(DataConfig(), faulty.folder)
    assert examinations.examination_key(table, data) == examinations.examination_key(
        table, data.model_copy(update={"accepted": ["long_prompt"]})
    )
    assert examinations.examination_key(table, data) != examinations.examination_key(
        table, data.model_copy(update={"prompt": "{a}"})
    )


def test_configure_shows_open_and_accepted_findings(faulty: Stage) -> None:
    app = checked(faulty.page("data"), "Empty answers")
    for _ in range(2):
        app = faulty.checked(button(app, "Accept finding").click().run())
    assert "No other findings." in words(app)
    app = checked(app.switch_page("pages/configure.py").run(), "Accepted findings")
    assert "Empty answers (1 row), Exact duplicates (1 row)." in words(app)
    app = app.switch_page("pages/data.py").run()
    app = faulty.checked(button(app, "Reopen").click().run())
    app = checked(app.switch_page("pages/configure.py").run(), "1 finding in the data")
    assert not button(app, "Start").disabled, "a finding warns and blocks nothing"


def test_rows_of_a_finding_are_shown_in_the_preview(faulty: Stage) -> None:
    app = checked(faulty.page("data"), "Empty answers")
    app = faulty.checked(button(app, "Show the row").click().run())
    assert "1 of 22 rows" in words(app)
    assert app.number_input(key="row").value == 22
    app = faulty.checked(button(app, "Show all rows").click().run())
    assert "1 of 22 rows" not in words(app)


def test_truncated_answers_are_found_and_a_click_raises_the_limit(
    faulty: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.full((22, 2), 10, dtype=np.int32)
    counts[4] = (10, 600)
    np.save(faulty.folder / "counted.npy", counts)
    asked = []

    def poll(save_dir: Path, kind: str, body: dict[str, Any], *, lane: str, wait: float) -> warm_client.QuestionState:
        if kind != "lengths":
            return warm_client.QuestionState("off", message="not asked here")
        asked.append((kind, body["config"]["data"]["prompt"]))
        return warm_client.QuestionState("done", value={"path": str(faulty.folder / "counted.npy"), "rows": 22})

    monkeypatch.setattr(warm_client, "poll_warm_question", poll)
    app = checked(faulty.page("data"), "Answers truncated at the max sequence length")
    assert "1 of 22 rows is longer than 256 tokens" in words(app)
    assert set(asked) == {("lengths", "{q}")}
    app = faulty.checked(button(app, "Set max sequence length to 616 \\(nothing is truncated\\)").click().run())
    assert "Answers truncated" not in words(app)
    assert "A fix changed **Max sequence length (tokens)**." in words(app)
    saved = json.loads((faulty.folder / "draft.json").read_text())
    assert saved["draft"]["training"]["sft_args"]["max_seq_length"] == 616
    app.button_group(key="source_way").set_value("sample").run()
    app = faulty.checked(button(app, "Use Tickets").click().run())
    assert "A fix changed" not in words(app), "its Undo would put another dataset's settings back"

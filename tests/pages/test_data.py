"""The Data page: sources, templates, examples, the split, and the problems that block the next step."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import golden
from tests.pages.conftest import Stage, button, words
from toolkit.config import DataConfig
from toolkit.data.read_options import ReadOptions
from toolkit.data.storage import background_open
from toolkit.data.storage.open_table import open_table
from toolkit.runs.run_dir import list_runs, read_run_meta
from toolkit.services import warm_client


def test_first_visit_shows_the_sample_and_an_example(stage: Stage) -> None:
    app = stage.page("data")
    text = words(app)
    assert "orders.csv" in text
    assert app.title[0].value == "Finetuning Toolkit"
    assert "Fine-tune a language model on your own data" in app.markdown[0].value
    assert app.button[0].label == "Try it now", "nothing is above the one action"
    assert re.search(r"learns to turn order messages into JSON in about \d+ s", text), "this machine's own forecast"
    assert "Training: 512 rows" in text
    assert "**512 rows ready to train** · 128 test rows" in text
    assert any('{"name":' in block.value for block in app.code), "the completion of the first row"
    assert not button(app, "Configure the training").disabled


def test_try_it_now_queues_the_default_run_and_goes_there(stage: Stage) -> None:
    app = button(stage.page("data"), "Try it now").click().run()
    stage.checked(app)
    (run,) = list_runs(stage.folder)
    assert read_run_meta(run)["dataset"]["rows"] == 640
    assert app.title[0].value == "Runs"
    assert "in the queue" in words(app)


def test_another_dataset_suggests_templates_and_only_written_ones_can_be_restored(stage: Stage) -> None:
    app = button(stage.page("data"), "Use Tickets").click().run()
    assert "Restore them" not in [entry.label for entry in app.button], "nobody wrote the templates of the sample"
    app = button(app, "Use Orders").click().run()
    assert "Restore them" not in [entry.label for entry in app.button], "these were suggested"
    saved = json.loads((stage.folder / "draft.json").read_text())
    saved["draft"]["data"]["prompt"] = "Order: {message}"
    (stage.folder / "draft.json").write_text(json.dumps(saved))
    app = button(stage.page("data"), "Use Tickets").click().run()
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]["data"]
    assert (draft["prompt"], draft["prompt_stub"]) == ("{ticket}", "{category}")
    assert "tickets.json" in words(stage.checked(app))
    app = button(app, "Restore them").click().run()
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]["data"]
    assert draft["prompt"] == "Order: {message}"
    assert button(app, "Configure the training").disabled
    assert "First: Correct the prompt template." in words(app)
    assert "ready to train" not in words(app)
    assert "No column of tickets.json is named 'message'" in words(app)


def test_the_page_has_three_steps_and_one_main_action(stage: Stage) -> None:
    app = stage.page("data")
    assert [entry.value for entry in app.header] == ["1. Source", "2. Template", "3. Checks"]
    assert [entry.label for entry in app.button if entry.proto.type == "primary"] == ["Try it now"]
    app = stage.checked(button(app, "Try it now").click().run().switch_page("pages/data.py").run())
    assert [entry.label for entry in app.button if entry.proto.type == "primary"] == ["Configure the training"]


def test_uploads_and_samples_used_before_can_be_chosen_again(stage: Stage) -> None:
    app = _upload(stage, "mine.csv", b"question,answer\n1,one\n2,two\n3,three\n4,four\n")
    app = stage.checked(app.file_uploader[0].upload("bad.json", b"[1, ", "application/json").run())
    app = stage.checked(app.button_group(key="source_way").set_value("sample").run())
    assert button(app, r"mine\.csv (in use)").disabled
    assert not [entry.label for entry in app.button if "bad" in entry.label], "what could not be read is not offered"
    app = stage.checked(button(app, "Use Orders").click().run())
    assert "orders.csv" in words(app)
    app = stage.checked(button(app, r"Use mine\.csv").click().run())
    assert "**3 rows ready to train** · 1 test row" in words(app)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.docx", b"PK\x03\x04[Content_Types].xml word/document.xml", "This is a Word document"),
        ("paper.pdf", b"%PDF-1.7 " + bytes(range(256)), "This is a PDF"),
        ("photo.png", b"\x89PNG\r\n" + bytes(300), "This is an image"),
        ("app.exe", b"MZ" + bytes(300), "This is a binary file"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_words(stage: Stage, name: str, content: bytes, reason: str) -> None:
    app = stage.page("data")
    app = app.button_group(key="source_way").set_value("upload").run()
    assert not app.file_uploader[0].proto.type, "the box itself would refuse without a sentence"
    app = stage.checked(app.file_uploader[0].upload(name, content, "application/octet-stream").run())
    assert reason in "\n".join(str(entry.value) for entry in app.error)


def test_an_upload_with_another_ending_is_read_by_its_content(stage: Stage) -> None:
    assert "4 rows" in words(_upload(stage, "export.log", b"question;answer\n1;one\n2;two\n3;three\n4;four\n"))


def test_an_upload_is_stored_and_its_widget_cleared(stage: Stage) -> None:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    app.file_uploader[0].upload("mine.csv", b"question,answer\n007,one\n2,two\n3,\n4,four\n", "text/csv").run()
    text = words(stage.checked(app))
    assert "4 rows" in text
    assert "007" in "\n".join(block.value for block in app.code), "text stays text"
    assert len(list((stage.folder / "uploads").glob("*mine*.csv"))) == 1
    assert not app.file_uploader[0].value
    assert "2 of 3" not in text
    assert "Skipped (missing cells): 1 row" in text


def test_a_broken_upload_keeps_the_previous_dataset(stage: Stage) -> None:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    app.file_uploader[0].upload("bad.json", b'[{"a": 1}, {"a": ', "application/json").run()
    stage.checked(app)
    assert app.error, "the reason is on the page"
    app = stage.checked(button(app, r"Keep orders\.csv").click().run())
    assert not app.error
    assert "orders.csv" in words(app)


def test_a_path_on_this_machine(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"t{i}", "label": "x"}) for i in range(10)))
    app = stage.page("data")
    app.button_group(key="source_way").set_value("path").run()
    app.text_input[0].input(str(file))
    app = button(app, "Open").click().run()
    assert "rows.jsonl" in words(stage.checked(app))
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]["data"]
    assert (draft["prompt"], draft["prompt_stub"], draft["file_type"]) == ("{text}", "{label}", "json")


def test_the_row_buttons_step_through_the_rows(stage: Stage) -> None:
    app = stage.page("data")
    first = [block.value for block in app.code]
    app = button(app, "").click().run()  # previous of the first row is the last one
    assert app.number_input(key="row").value == 640
    assert [block.value for block in app.code] != first


def test_a_prompt_is_pinned_and_unpinned(stage: Stage) -> None:
    app = stage.page("data")
    app = stage.checked(button(app, "Pin").click().run())
    pinned = json.loads((stage.folder / "draft.json").read_text())["draft"]["training"]["pinned_prompts"]
    assert len(pinned) == 1
    stage.checked(button(app, "Unpin").click().run())
    assert json.loads((stage.folder / "draft.json").read_text())["draft"]["training"]["pinned_prompts"] is None


def _upload(stage: Stage, name: str, content: bytes) -> Any:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    return stage.checked(app.file_uploader[0].upload(name, content, "text/plain").run())


def _data(stage: Stage) -> dict[str, Any]:
    return dict(json.loads((stage.folder / "draft.json").read_text())["draft"]["data"])


def test_an_ambiguous_encoding_is_chosen_by_its_preview(stage: Stage) -> None:
    app = _upload(stage, "mine.csv", "q;a\ncafé;1\nx;2\ny;3\n".encode("cp1252"))
    assert "Choose how to read this file" in words(app)
    assert any("café;1" in block.value for block in app.code)
    assert "orders.csv" not in words(app) and "ready to train" not in words(app), "the earlier data would mislead"
    assert button(app, "Configure the training").disabled and "Choose how to read the file." in words(app)
    kept = stage.checked(button(app, r"Keep orders\.csv").click().run())
    assert "orders.csv" in words(kept) and "512 rows ready to train" in words(kept)
    app = _upload(stage, "mine.csv", "q;a\ncafé;1\nx;2\ny;3\n".encode("cp1252"))
    app = stage.checked(button(app, "Apply").click().run())
    assert "3 rows" in words(app)
    assert _data(stage)["encoding"] == "cp1252"
    again = stage.page("data")
    assert "Encoding: cp1252" in words(again), "a new session reads the same table"
    app = stage.checked(button(again, "Reset to automatic detection").click().run())
    assert "Choose how" in words(app)
    assert _data(stage)["encoding"] == "cp1252", "what can't be read without a choice keeps the choice"
    app.button_group(key="source_way").set_value("sample").run()
    app = stage.checked(button(app, "Use Tickets").click().run())
    assert _data(stage)["encoding"] is None, "another dataset begins without choices"


def test_conversations_are_recognized_shown_and_trained_on(stage: Stage) -> None:
    turns = [{"role": "user", "content": "What is <b>2+2</b>?"}, {"role": "assistant", "content": "4, _really_"}]
    line = json.dumps({"messages": turns}) + "\n"
    app = _upload(stage, "chats.jsonl", line.encode() * 8)
    assert _data(stage)["messages"] == "messages"
    text = words(app)
    assert "8 conversations" in text
    assert ":gray[trained]" in text
    assert {"What is <b>2+2</b>?", "4, _really_"} <= {block.value for block in app.code}
    assert not button(app, "Configure the training").disabled
    app.button_group(key=next(g.key for g in app.button_group if g.label == "Train on")).set_value("").run()
    assert _data(stage)["messages"] is None
    assert "Train on" in [group.label for group in stage.checked(app).button_group]


def test_a_legacy_openai_file_is_recognized_and_gets_its_templates(stage: Stage) -> None:
    lines = b'{"prompt": "hi", "completion": " ho"}\n{"prompt": "a", "completion": " b"}\n' * 3
    app = _upload(stage, "old.jsonl", lines)
    assert "OpenAI's older fine-tuning format" in words(app)
    assert (_data(stage)["prompt"], _data(stage)["prompt_stub"]) == ("{prompt}", "{completion}")
    assert not button(app, "Configure the training").disabled


def test_the_uploader_states_its_limit_and_the_alternative(stage: Stage) -> None:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    (box,) = [entry for entry in stage.checked(app).file_uploader if entry.label.startswith("A CSV")]
    assert "up to" in box.label
    assert "up to 2 GB" in box.label
    assert "choose Path" in box.help
    told = [f"{box.label}. {box.help}"]
    golden.hold(
        Path(__file__).with_name("golden_situations.json"),
        "file above the limit",
        {"row": 13, "outcome": "refused", "told": told},
    )


def test_a_test_file_can_be_uploaded_while_the_split_sizes_are_invalid(stage: Stage) -> None:
    app = _upload(stage, "mine.csv", b"question,answer\n" + b"1,one\n2,two\n" * 5)
    next(box for box in app.text_input if str(box.key).startswith("field:data.test_size")).set_value("2").run()
    (box,) = [entry for entry in app.file_uploader if entry.label.startswith("A file with")]
    app = stage.checked(box.upload("held.csv", b"question,answer\n3,one\n", "text/csv").run())
    assert _data(stage)["test_path"].endswith("held.csv")
    assert "The test set is a separate file" in words(app)


def test_a_test_file_replaces_the_split(stage: Stage) -> None:
    app = _upload(stage, "mine.csv", b"question,answer\n" + b"1,one\n2,two\n" * 5)
    assert any(entry.label == "Stratified split" for entry in app.toggle), "two answers are few"
    (box,) = [entry for entry in app.file_uploader if entry.label.startswith("A file with")]
    app = stage.checked(box.upload("held.csv", b"question,answer\n3,one\n", "text/csv").run())
    assert "The test set is a separate file with 1 row" in words(app)
    assert "Training: 10 rows" in words(app)
    assert _data(stage)["test_path"].endswith("held.csv")
    app = stage.checked(button(app, "Split the dataset instead").click().run())
    assert _data(stage)["test_path"] is None
    assert "Training: 8 rows" in words(app)


def test_a_large_file_is_opened_in_the_background_and_survives_a_refresh(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, real = threading.Event(), background_open.open_table

    def slow(data: Any, *rest: Any) -> Any:
        assert not data.path.endswith("big.csv") or may_go.wait(60)
        return real(data, *rest)

    monkeypatch.setattr(background_open, "open_table", slow)
    monkeypatch.setattr(background_open, "BIG_FILE_BYTES", 20)
    monkeypatch.setattr(background_open, "FILE_OPEN_WAIT_S", 0.01)
    big = tmp_path / "big.csv"
    big.write_text("question,answer\n1,one\n2,two\n3,three\n")
    app = stage.page("data")
    app.button_group(key="source_way").set_value("path").run()
    next(box for box in app.text_input if box.label.startswith("Path")).set_value(str(big))
    stage.checked(button(app, "Open").click().run())
    for waiting in (app, stage.page("data")):  # the second one is another tab
        assert "orders.csv" in words(waiting), "the previous dataset stays in use"
        assert button(waiting, "Cancel opening")
    may_go.set()
    assert all(one.over.wait(60) for one in background_open._running.values())
    app = stage.page("data")
    assert "3 rows" in words(app)
    assert not [entry for entry in app.button if entry.label == "Cancel opening"]
    assert not (stage.folder / "opening.json").exists()


def test_columns_that_are_close_are_asked_about_with_each_choice_rendered(stage: Stage) -> None:
    rows = "".join(f'"How is the weather in town {i}?","Wie ist das Wetter in Stadt {i}?"\n' for i in range(12))
    app = _upload(stage, "mine.csv", f"en,de\n{rows}".encode())
    assert (_data(stage)["prompt"], _data(stage)["prompt_stub"]) == ("", "")
    text = words(app)
    assert "Choose what to train on" in text
    assert "Wie ist das Wetter in Stadt 0" in text
    assert "token by token" not in text and "No blocking problems" not in text, "there is nothing to look at yet"
    assert button(app, "Configure the training").disabled, "nothing is preselected"
    assert "there is nothing to learn" not in text, "no complaint about what nobody has written yet"
    app = stage.checked(button(app, "Choose what to train on").click().run())  # scrolls there
    app = stage.checked(button(app, "Use these columns").click().run())
    assert (_data(stage)["prompt"], _data(stage)["prompt_stub"]) == ("{en}", "{de}")
    assert "Choose what to train on" not in words(app)
    assert not button(app, "Configure the training").disabled


def test_a_column_is_chosen_for_each_template_and_follows_the_editors(stage: Stage) -> None:
    rows = "".join(f"T-{i},Where is parcel {i}?,team {i % 3},{i % 2}\n" for i in range(12))
    app = _upload(stage, "mine.csv", f"id,text,team,urgent\n{rows}".encode())
    for label, column in (("Column to read (prompt)", "text"), ("Column to answer (completion)", "urgent")):
        app = stage.checked(next(box for box in app.selectbox if box.label == label).set_value(column).run())
    assert (_data(stage)["prompt"], _data(stage)["prompt_stub"]) == ("{text}", "{urgent}")
    workspace = app.session_state["workspace"]
    workspace["draft"]["data"] = {**workspace["draft"]["data"], "prompt": "Answer: {text}"}
    app = stage.checked(app.run())
    chosen = {box.label: box.value for box in app.selectbox if box.label.startswith("Column to ")}
    assert chosen == {"Column to read (prompt)": None, "Column to answer (completion)": "urgent"}
    box = next(box for box in app.selectbox if box.label == "Column to answer (completion)")
    app.session_state["workspace_version"] += 1  # the templates were replaced since the box was drawn
    stage.checked(box.set_value("team").run())
    assert _data(stage)["prompt_stub"] == "{urgent}", "a late report of an old box counts for nothing"


def test_a_preference_file_trains_on_the_chosen_answer(stage: Stage) -> None:
    rows = [{"prompt": f"Where is {i}?", "rejected": f"No idea {i}.", "chosen": f"In aisle {i}."} for i in range(8)]
    app = _upload(stage, "pairs.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert (_data(stage)["prompt"], _data(stage)["prompt_stub"]) == ("{prompt}", "{chosen}")
    assert "Those in 'rejected' are not used" in words(app).replace("\\", "")


def test_a_file_that_reads_in_two_ways_is_shown_with_both(stage: Stage, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "fixtures" / "brought" / "s21_tsv_loose_quotes.tsv"
    app = stage.page("data")
    app.segmented_control(key="source_way").set_value("path").run()
    app.text_input[0].set_value(str(source))
    app = stage.checked(button(app, "Open").click().run())
    assert "first at line 3: a quote may hide rows" in words(app)
    shown = [block.value for block in app.code]
    assert any("Wait here, Warte hier, \u21b5 he called. rief er." in text for text in shown), "as it was read"
    assert any(text.startswith('"Wait here, \u2502 Warte hier,') for text in shown), "the other reading"
    kept = stage.checked(button(app, "Keep this reading").click().run())
    assert "As it was read" not in words(kept)
    assert "Quotes: Keep cells across lines" in words(kept)
    app = button(kept, "Reset to automatic detection").click().run()
    app = stage.checked(button(app, "Read it this way").click().run())
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]["data"]
    assert draft["quotes"] == "lines"
    assert "20 rows" in words(app)


def answer_questions(monkeypatch: pytest.MonkeyPatch, faults: warm_client.QuestionState) -> list[str]:
    """Answer the background worker's questions: `faults` for the search for blocking problems. Returns their kinds."""
    asked: list[str] = []

    def poll(save_dir: Path, kind: str, body: object, **how: object) -> warm_client.QuestionState:
        asked.append(kind)
        return faults if kind == "faults" else warm_client.QuestionState("off", message="not asked here")

    monkeypatch.setattr(warm_client, "poll_warm_question", poll)
    return asked


def test_rejected_conversations_are_repaired_with_one_click(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = {
        "kind": "template_rejects",
        "message": "1 of 20 rows is rejected by the model's chat template. Row 14: roles must alternate.",
        "hint": "Remove or repair these rows.",
        "count": 1,
        "rows": [13],
        "repairs": [["merge_turns", 1]],
    }
    found = warm_client.QuestionState("done", value={"faults": [fault], "checked": 20, "usable": 20})
    answer_questions(monkeypatch, found)
    content = (Path(__file__).parents[1] / "fixtures" / "brought" / "s07c_consecutive_user_row14.jsonl").read_bytes()
    app = _upload(stage, "chats.jsonl", content)
    text = words(app)
    assert "blocks Start" in text
    assert "Row 14: roles must alternate" in text
    assert {"Row 14", "Remove 1 row"} <= {one.label for one in app.button}
    stage.checked(button(app, "Merge consecutive turns (1 row fixed)").click().run())
    table = open_table(DataConfig(**_data(stage)), stage.folder)
    assert table.version is not None
    assert table.rows == 20
    before = [one["role"] for one in json.loads(content.splitlines()[13])["messages"]]
    assert before == ["user", "user", "assistant"]
    assert [one["role"] for one in json.loads(str(table.row(13)["messages"]))] == ["user", "assistant"]


def test_a_check_that_fails_is_shown_as_failed_and_not_asked_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = warm_client.QuestionState("failed", message="The tokenizer can't be read.", hint="Choose another model.")
    asked = answer_questions(monkeypatch, failed)
    app = stage.page("data")
    text = words(app)
    assert "The rows were not checked for blocking problems: The tokenizer can't be read." in text
    assert "Rows not checked" in text
    assert "ready to train" not in text
    assert "No blocking problems" not in text
    count = asked.count("faults")
    assert "not checked" in words(stage.checked(app.run()))
    assert asked.count("faults") == count, "the failure is remembered: it would look like waiting"
    assert "The rows were not checked for blocking problems" in words(stage.page("configure"))


def test_a_hub_dataset_has_fields_for_configuration_split_and_revision(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("toolkit.ui.data.source_view.opening_view.request_dataset", lambda *args: asked.append(args))
    app = stage.page("data")
    app.segmented_control(key="source_way").set_value("hub").run()
    labels = [entry.label for entry in app.text_input[:4]]
    assert labels == ["Hugging Face dataset ID", "Configuration", "Split", "Revision"]
    for entry, text in zip(app.text_input[:4], ("openai/gsm8k", "socratic", " test ", ""), strict=True):
        entry.set_value(text)
    stage.checked(button(app, "Open").click().run())
    assert asked == [("huggingface", "openai/gsm8k", ReadOptions(hub_config="socratic", hub_split="test"), None)]


def test_the_speaker_who_answers_is_one_click(stage: Stage) -> None:
    rows = [{"id": at, "from": ("Ann", "Bob")[at % 2], "text": f"Message {at} of the talk."} for at in range(12)]
    app = _upload(stage, "chat.json", json.dumps({"name": "Shop", "messages": rows}).encode())
    assert "Choose who answers: 'Ann', 'Bob'." in words(app)
    assert button(app, "Configure the training").disabled
    assert "First: Choose who answers." in words(app)
    assert "Reading options" not in [entry.label for entry in app.expander], "the choice stands once, where the eye is"
    app = stage.checked(button(app, "Learn to answer as Bob").click().run())
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]["data"]
    assert (draft["answered_by"], draft["messages"]) == ("Bob", "messages")
    assert "The messages of 'Bob' are the answers." in words(app)


def test_messages_that_nothing_links_are_joined_by_one_click(stage: Stage) -> None:
    rows = [{"role": ("user", "assistant")[at % 2], "content": f"Message {at} of the talk."} for at in range(12)]
    app = _upload(stage, "chat.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert "First: Join the messages, or choose columns." in words(app)
    label = "Join the 12 messages in the order of the file; a system message begins a conversation"
    app = stage.checked(button(app, label).click().run())
    draft = _data(stage)
    assert (draft["join_messages"], draft["messages"]) == (True, "messages")


def test_a_doubt_about_a_file_is_said_once(stage: Stage) -> None:
    content = b"What is a lamp?,It gives light at night.\n" + b"What is a desk?,It holds a lamp and more.\n" * 6
    app = _upload(stage, "rows.csv", content)
    assert words(app).count("The first line looks like a row of data") == 1


def test_repeated_column_names_are_numbered_by_one_click(stage: Stage) -> None:
    rows = b"".join(b"Where is item %d?,a,b,It is on shelf %d.\n" % (at, at) for at in range(8))
    app = _upload(stage, "jira.csv", b"question,Labels,Labels,answer\n" + rows)
    assert "are all named" in "\n".join(str(entry.value) for entry in app.error)
    app = stage.checked(button(app, "Apply").click().run())
    assert (_data(stage)["number_names"], _data(stage)["prompt"]) == (True, "{question}")


CONTROLS = {
    "Reading options": lambda app: any(entry.label == "Reading options" for entry in app.expander),
    "Choose an encoding": lambda app: any(entry.label == "Reading option" for entry in app.radio),
    "Path as the data source": lambda app: any("Path" in option for option in app.segmented_control[0].options),
    "Test file": lambda app: any(entry.label == "Test file" for entry in app.button),
}
"""What a hint may name -> whether the page has it."""
CHAT, NO_ANSWER = (
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
    '{"messages": [{"role": "user", "content": "a"}]}',
)


@pytest.mark.parametrize(
    ("name", "content", "offers"),
    [
        ("a.csv", "q,a\n1,2,3\n4,5\n6,7\n", 1),
        ("a.csv", "q,a\ncafé,1\nx,2\n".encode("cp1252"), 2),
        ("a.csv", 'q,a\n"1,2\n3,4\n', 1),
        ("a.json", '[{"q": 1}, {"q": 2}, {"q": ', 1),
        ("a.json", '{"x": [{"q": 1}], "y": [{"q": 1}, {"q": 2}]}', 2),
        ("a.json", "no data at all", 0),
        ("a.xls", "<table><tr><td>q</td></tr></table>", 0),
        ("a.gz", b"\x1f\x8bbroken", 0),
        ("a.jsonl", f"{CHAT}\n{NO_ANSWER}\n{CHAT}\n", 1),
        ("a.jsonl", f"{NO_ANSWER}\n{NO_ANSWER}\n", 0),
    ],
)
def test_a_hint_names_only_what_the_page_has(stage: Stage, name: str, content: str | bytes, offers: int) -> None:
    app = _upload(stage, name, content.encode() if isinstance(content, str) else content)
    said = words(app)
    for named, is_there in CONTROLS.items():
        assert named not in said or is_there(app), named
    assert not re.search(r"choose (CSV|JSON) as the file type", said, re.IGNORECASE), "the page has no such control"
    applied = [entry for entry in app.button if entry.label == "Apply"]
    assert bool(applied) is bool(offers)
    if offers > 1:
        assert len(app.radio[0].options) >= offers
    if offers:
        again = stage.checked(applied[0].click().run())
        assert "a." + name.split(".")[1] in words(again)


BROUGHT = Path(__file__).parent.parent / "fixtures" / "brought"
LAMPS = [f"Where do I find lamp {at}?" for at in range(12)]
CALL = {"type": "function", "function": {"name": "find", "arguments": {}}}
WITH_TOOL = [
    {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [CALL]}],
        "tools": [{"name": "find", "parameters": {}}],
    }
    for text in LAMPS
]
PREFERENCES = [{"prompt": text, "chosen": "In an aisle.", "rejected": f"No {at}."} for at, text in enumerate(LAMPS)]
MEANT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "s01_alpaca_blank_input.csv": (
        None,
        {"prompt_stub": "{output}", "optional_columns": ["input"]},
        "no row is skipped",
    ),
    "s03_sharegpt_system_column.json": (None, {"messages": "conversations"}, "You answer like a calm shop clerk."),
    "tools.jsonl": (WITH_TOOL, {"messages": "messages"}, "Available tools"),
    "preferences.jsonl": (
        PREFERENCES,
        {"messages": None, "prompt_stub": "{chosen}"},
        "Those in 'rejected' are not used.",
    ),
    "s12c_pandas_split_20.json": (None, {"prompt": "{question}", "prompt_stub": "{answer}"}, "pandas calls split"),
}
"""File -> its rows unless it is a fixture, settings that Start would use, words on the page."""


@pytest.mark.parametrize("name", MEANT)
def test_a_file_trains_what_its_owner_meant_without_a_click(stage: Stage, name: str) -> None:
    rows, settings, shown = MEANT[name]
    content = "\n".join(map(json.dumps, rows)).encode() if rows else (BROUGHT / name).read_bytes()
    app = _upload(stage, name, content)
    assert settings.items() <= _data(stage).items()
    assert shown in words(app)
    assert not button(app, "Configure the training").disabled

"""The Runs page over recorded events: states, figures, actions, comparison of settings."""

from __future__ import annotations

import io
import json
import os
import shlex
import zipfile

import pytest
import typer

from tests.pages.conftest import Stage, button, words
from toolkit.cli import main
from toolkit.cluster.choice import ClusterView
from toolkit.cluster.resources import ClusterNode
from toolkit.errors import RunError
from toolkit.export import adapter_archive
from toolkit.export.adapter_archive import zip_adapter
from toolkit.lifecycle.claims import take_claim
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import is_run_approved, list_runs, read_run_meta
from toolkit.runs.slots import count_slots
from toolkit.system.durable import COMMIT_NAME, commit_dir
from toolkit.system.locks import describe_self, try_lock, write_lock_holder
from toolkit.system.out_of_memory import REDUCE_TRAINING_MEMORY_HINT
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.runs import run_actions


def test_of_two_runs_with_one_name_the_chosen_one_stays(stage: Stage) -> None:
    first, second = stage.finished("same"), stage.finished("same")
    for run in (first, second):
        app = stage.page("playground", run)
        app = stage.checked(app.selectbox[0].set_value(app.selectbox[0].value).run())  # what each press sends with it
        assert app.session_state["run_id"] == run.id


def test_without_runs_the_page_offers_the_demo(stage: Stage) -> None:
    app = stage.page("runs")
    assert button(app, "Try it now")
    assert "Nothing is running" in words(app)


def test_a_finished_run(stage: Stage) -> None:
    run = stage.finished("first")
    app = stage.page("runs", run)
    text = words(app)
    assert "step 96 of 96" in text
    assert "3 rows skipped" in text
    assert app.header[0].value == "0 % → :green[97 %]", "the result comes first"
    assert "exact match, base model → adapter (124 of 128 test rows)" in text
    assert ":gray[Test loss] **0.25**" in text
    assert [entry.label for entry in app.button][:3] == ["Chat", "Evaluate", "Export"]
    assert [entry.label for entry in app.button if entry.proto.type == "primary"] == ["Chat"]
    assert not button(app, "Chat").disabled


def test_skipped_rows_are_named_once(stage: Stage) -> None:
    warning = "3 rows have a missing cell in a column that the templates use and are skipped."
    run = stage.run(("started", {}), ("prepared", {"train_rows": 9, "dropped": 3}), ("warning", {"message": warning}))
    text = words(stage.page("runs", run))
    assert warning in text and "skipped because of" not in text


def test_a_figure_that_is_not_known_is_not_shown(stage: Stage) -> None:
    run = stage.run(("started", {}), ("log", {"step": 1, "loss": 11_800.0}), ("failed", {"message": "m", "hint": "h"}))
    text = words(stage.page("runs", run))
    assert ":gray[Training loss] **11,800**" in text
    assert "Test loss" not in text and "–" not in text


def test_the_header_says_what_a_run_trains(stage: Stage) -> None:
    plain = stage.finished("plain")
    assert "**demo-model** on **orders.csv** · default settings" in words(stage.page("runs", plain))
    config = {"lora": {"r": 8}, "training": {"training_args": {"learning_rate": 2e-4}}}
    varied = stage.run(name="varied", study="ranks", config=config)
    text = words(stage.page("runs", varied))
    assert "**demo-model** on **orders.csv** · study **ranks** · LoRA rank (r) 8, Learning rate 2e-4" in text


def test_a_failed_run_shows_its_reason_and_the_next_step(stage: Stage) -> None:
    run = stage.run(
        ("started", {}), ("failed", {"reason": "oom", "message": "The memory ran out.", "hint": "Halve the *batch*."})
    )
    app = stage.page("runs", run)
    assert "The memory ran out" in app.error[0].value.replace("\\", "")
    assert "\\*batch\\*" in app.error[0].value, "text, not markup"
    assert not [entry for entry in app.button if entry.label == "Chat"], "there is no adapter"


@pytest.mark.parametrize(
    ("reason", "message", "hint", "label", "page"),
    [
        ("model_not_found", "The model can't be found.", "Check model.hf_model_ckpt.", "Change the model", "Configure"),
        ("no_network", "No hub.", "Check the connection, enter the path of a folder.", "Change the model", "Configure"),
        ("out_of_memory", "Too big.", REDUCE_TRAINING_MEMORY_HINT, "Change Batch size per device", "Configure"),
        ("diverged", "The loss became NaN.", "Lower learning_rate.", "Change Learning rate", "Configure"),
        ("bad_data", "The data can't be used.", "Check it on the Data page.", "Correct the data", "Data"),
        ("refused", "This does not work.", "Correct the settings.", "Change the settings", "Configure"),
    ],
)
def test_the_remedy_of_a_failure_is_the_primary_button(
    stage: Stage, reason: str, message: str, hint: str, label: str, page: str
) -> None:
    end = {"reason": reason, "message": message, "hint": hint, "trace": "Traceback: deep"}
    run = stage.run(("started", {}), ("failed", end), config={"lora": {"r": 8}})
    app = stage.page("runs", run)
    assert [entry.label for entry in app.button if entry.proto.type == "primary"] == [label]
    assert next(entry.label for entry in app.expander if not entry.proto.expanded) == "Stack trace"
    app = stage.checked(button(app, label).click().run())
    assert app.title[0].value == page
    draft = json.loads((stage.folder / "draft.json").read_text())["draft"]
    assert draft["lora"]["r"] == 8, "what failed is what is changed"


def test_a_failure_that_no_setting_caused_offers_to_resume(stage: Stage) -> None:
    end = {"reason": "disk_error", "message": "The disk reported an error.", "hint": "Check the drive."}
    app = stage.page("runs", stage.run(("started", {}), ("failed", end)))
    assert [entry.label for entry in app.button if entry.proto.type == "primary"] == ["Resume"]


def test_queued_runs_show_their_position_and_can_be_cancelled(stage: Stage) -> None:
    stage.run(name="one")
    second = stage.run(name="two")
    app = stage.page("runs", second)
    assert "number 2 in the queue" in words(app)
    button(app, "Cancel").click().run()
    assert second.stop_path.exists()


def test_the_newest_run_is_the_default_and_a_choice_is_kept(stage: Stage) -> None:
    old, new = stage.finished("old"), stage.finished("new")
    assert stage.page("runs").query_params["run"] == new.id
    app = stage.page("runs", old)
    assert app.selectbox[0].value == old.id
    app = app.selectbox[0].select(new.id).run()
    assert stage.checked(app).query_params["run"] == new.id


def test_settings_of_a_run_are_loaded_into_the_draft(stage: Stage) -> None:
    run = stage.finished("wide", config={"lora": {"r": 8}})
    button(stage.page("runs", run), "Reuse settings").click().run()
    assert json.loads((stage.folder / "draft.json").read_text())["draft"]["lora"]["r"] == 8


def test_the_differences_from_the_defaults_are_shown(stage: Stage) -> None:
    run = stage.finished("wide", config={"lora": {"r": 8}})
    frames = [entry.value for entry in stage.page("runs", run).dataframe]
    assert any("lora.r" in frame.to_string() for frame in frames)


def test_a_damaged_run_does_not_hide_the_others(stage: Stage) -> None:
    bad, good = stage.finished("bad"), stage.finished("good")
    bad.meta_path.write_text("{")
    app = stage.page("runs", good)
    assert "good" in " ".join(app.selectbox[0].options)
    assert bad.id in app.error[0].value.replace("\\", "")


def test_renaming_changes_only_the_name(stage: Stage) -> None:
    run = stage.finished("before")
    run_actions.rename_run(run, " after ")
    meta = read_run_meta(run)
    assert (meta["name"], meta["id"]) == ("after", run.id)


def test_the_adapter_is_downloaded_as_a_zip_of_known_files(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.finished("done")
    names = zipfile.ZipFile(io.BytesIO(zip_adapter(run))).namelist()
    assert names == ["adapter_model.safetensors", "adapter_config.json", "finetuning-toolkit.yml"]
    monkeypatch.setattr(adapter_archive, "MAX_DOWNLOAD_BYTES", -1)
    with pytest.raises(RunError, match="the browser gets at most") as refused:
        zip_adapter(run)
    assert str(run.adapter_dir) in refused.value.hint
    (run.adapter_dir / "adapter_model.safetensors").write_bytes(b"changed")
    monkeypatch.setattr(adapter_archive, "MAX_DOWNLOAD_BYTES", 1 << 20)
    with pytest.raises(RunError):
        zip_adapter(run)


def test_the_zip_contains_every_file_of_the_tokenizer(stage: Stage) -> None:
    run = stage.finished("done")
    tokenizer = {"added_tokens.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
    for name in (*tokenizer, "training_args.bin"):
        (run.adapter_dir / name).write_bytes(b"content")
    (run.adapter_dir / COMMIT_NAME).unlink()
    commit_dir(run.adapter_dir.rename(run.path / ".new-adapter"), run.adapter_dir, {})
    names = set(zipfile.ZipFile(io.BytesIO(zip_adapter(run))).namelist())
    assert tokenizer <= names
    assert "training_args.bin" not in names, "a pickle may hold a token"


def test_a_hundred_runs_are_listed(stage: Stage) -> None:
    for number in range(12):
        stage.finished(f"run {number}", adapter=False)
    app = stage.page("runs")
    assert len(app.selectbox[0].options) == len(list_runs(stage.folder)) == 12


def test_sample_outputs_show_how_answers_changed(stage: Stage) -> None:
    run = stage.finished("filmed")
    with EventWriter(run.film_path) as film:
        film.append(
            "pinned",
            pins=[
                {"prompt": "two *lamps*", "expected": "2 lamps", "row": 1},
                {"prompt": "hello", "expected": None, "row": None},
            ],
        )
        film.append("answers", step=0, texts=["lamps?", "hi"])
        film.append("answers", step=48, texts=["2 lamps", "hi **you**"])
        film.append("answers", step=96, texts=["2 lamps", "hi **you**"])
    app = stage.page("runs", run)
    slider = app.select_slider[0]
    assert (slider.options, slider.value) == (["0", "48", "96"], 96)
    assert "Correct since step 48" in words(app)
    app = stage.checked(slider.set_value(0).run())
    text = words(app)
    assert "0 of 1 answer correct · base model, before training" in text
    with EventWriter(run.film_path) as film:
        film.append("answers", step=120, texts=["2 lamps", "hi"])
    app = stage.checked(app.run())
    assert app.select_slider[0].value == 0, "what the user chose stays"
    app = stage.checked(app.select_slider[0].set_value(120).run())
    with EventWriter(run.film_path) as film:
        film.append("answers", step=144, texts=["2 lamps", "hi!"])
    assert stage.checked(app.run()).select_slider[0].value == 144, "at the end it follows"
    assert "Expected: " in text
    assert "two *lamps*" in text
    app = stage.checked(app.select_slider[0].set_value(48).run())
    assert "changes since step 0" in words(app)
    assert "\\*\\*" in "".join(entry.value for entry in app.markdown), "an answer is text, not markup"


def test_a_run_without_sample_outputs_shows_no_slider(stage: Stage) -> None:
    assert not stage.page("runs", stage.finished("dark")).select_slider


def test_the_queue_is_a_list_whose_runs_can_be_moved_and_cancelled(stage: Stage) -> None:
    one, _, three = (stage.run(name=name) for name in ("one", "two", "three"))
    app = stage.page("runs")
    assert ":gray[1.] one" in words(app)
    assert app.button(key=f"up_{one.id}").disabled
    assert app.button(key=f"down_{three.id}").disabled
    app = stage.checked(app.button(key=f"first_{three.id}").click().run())
    assert ":gray[1.] three" in words(app)
    app = stage.checked(app.button(key=f"cancel_{one.id}").click().run())
    assert ":gray[2.] two" in words(app)
    assert one.stop_path.exists()


def test_the_queue_sets_how_many_runs_train_at_the_same_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.runs.slots.training_cores", lambda: 2)
    slot = stage.folder / "runs" / ".slots" / "slot-1.lock"
    slot.parent.mkdir()
    taken = try_lock(slot)  # the supervisor of the page must not start a run
    assert taken is not None
    try:
        several = {"accelerate": True, "num_machines": 2}
        first, going = stage.run(name="first"), stage.run(name="going", config=several)
        stage.run(name="other")
        write_lock_holder(taken, describe_self(1, run=going.id))
        take_claim(going, 1, (1,), "slot 2 of 2")
        app = stage.page("runs", first)
        choice = next(entry for entry in app.number_input if entry.label == "Runs at the same time")
        assert (choice.value, choice.min, choice.max) == (1, 1, 2)
        app = stage.checked(choice.set_value(2).run())
        assert count_slots(stage.folder) == 2
        assert ":gray[:material/memory: slot 2 of 2] going" in words(app)
        assert "next in the queue, waits for 1 free slot" in words(app)
        going.accelerate_path.write_text("machine_rank: 1\n")
        shown = words(stage.page("runs", going))
        assert "slot 2 of 2" in shown
        assert "waits for the other machines of the run" in shown and "machine_rank: 1" in shown
    finally:
        os.close(taken)


def test_the_page_says_and_changes_where_runs_train(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = json.dumps({"cpu_count": 4, "memory_bytes": 10**10})
    nodes = [ClusterNode(4, 2, 10**10), ClusterNode(4, 2, 10**10)]
    answers: list[ClusterView | RunError] = [
        RunError("No Ray cluster answers at 10.0.0.5:6379: refused", "Start it."),
        ClusterView(nodes, machine, asks_for_token=False),
    ]

    def view(address: str) -> ClusterView:
        assert address == "10.0.0.5:6379"
        if isinstance(answer := answers.pop(0), RunError):
            raise answer
        return answer

    monkeypatch.setattr("toolkit.cluster.choice.view_cluster", view)
    stage.finished("done")
    app = stage.page("runs")
    assert "Runs train on this machine" in [entry.label for entry in app.expander]
    field = next(entry for entry in app.text_input if entry.label == "Ray cluster")
    app = stage.checked(field.set_value(" 10.0.0.5:6379 ").run())
    app = stage.checked(app.button(key="choose_cluster").click().run())
    assert "No Ray cluster answers at" in words(app) and count_slots(stage.folder) == 1
    app = stage.checked(app.button(key="choose_cluster").click().run())
    escaped = escape_text("10.0.0.5:6379")
    assert f"Runs train on the Ray cluster at {escaped}" in [entry.label for entry in app.expander]
    assert [entry.value for entry in app.success] == ["2 nodes, 4 GPUs, 8 cores. 4 runs at the same time."]
    assert any("asks for no token" in entry.value for entry in app.warning) and count_slots(stage.folder) == 4
    app = stage.checked(app.button(key="leave_cluster").click().run())
    assert "Runs train on this machine" in [entry.label for entry in app.expander]
    monkeypatch.setattr("toolkit.ui.frame.cluster_choice.find_person", lambda: "somebody who signed in")
    assert not any(entry.label.startswith("Runs train") for entry in stage.page("runs").expander)


def test_without_queued_runs_there_is_no_queue(stage: Stage) -> None:
    stage.finished("done")
    assert "Queue" not in [entry.value for entry in stage.page("runs").header]


def test_a_run_of_another_installation_waits_for_its_approval(stage: Stage) -> None:
    run = stage.run(name="from elsewhere")
    meta = json.loads(run.meta_path.read_bytes())
    run.meta_path.write_text(json.dumps({**meta, "approved": "0" * 64}))
    app = stage.page("runs", run)
    assert "waits for your approval" in words(app)
    button(app, "Approve").click()
    app = stage.checked(app.run())
    assert is_run_approved(run)
    assert "waits for your approval" not in words(app)
    assert "Approve" not in [entry.label for entry in app.button]


def test_answers_that_could_not_be_made_are_said_at_the_top(stage: Stage) -> None:
    run = stage.finished("unanswered")
    reason = "The test rows could not be answered (IndexError: index out of range in self). The adapter is saved."
    with EventWriter(run.events_path, 1) as events:
        events.append("warning", message=reason, unanswered=True)
    app = stage.page("runs", run)
    assert [entry.value.replace("\\", "") for entry in app.warning] == [reason]


def test_the_commands_that_follow_a_run_can_be_copied(stage: Stage) -> None:
    run = stage.finished("first")
    shown = [block.value for block in stage.page("runs", run).code if " follow " in block.value]
    assert len(shown) == 4 and shown[3].startswith("read -rs"), "no address is typed into a page or an argument list"
    command = typer.main.get_command(main.app).commands["follow"]  # type: ignore[attr-defined]
    for line in shown:
        words_of_line = shlex.split(line.rpartition("&& ")[2])
        assert words_of_line[:4] == ["python", "-m", "toolkit", "follow"]
        given = command.make_context("follow", words_of_line[4:]).params
        assert (given["run"], given["save_dir"]) == (run.id, run.save_dir)

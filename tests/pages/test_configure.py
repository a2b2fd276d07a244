"""The Configure page: sections, search, import and export, studies, and a Start button that starts once."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.runtime.scriptrunner import RerunData, RerunException
from streamlit.testing.v1 import AppTest

from toolkit.data.table import load_table
from toolkit.runs.run_dir import list_runs, read_run_config
from toolkit.settings import draft as drafts
from toolkit.settings.form_layout import BASIC_SETTINGS, FORM_SECTIONS
from toolkit.settings.yaml_file import load_draft
from toolkit.system import machine as machines
from toolkit.system.locks import try_lock
from toolkit.ui.configure import launch
from toolkit.ui.frame import page as page_module
from toolkit.ui.workspace import decided_settings, workspace

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace in which started runs stay queued, because the training slot is taken."""
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path))
    monkeypatch.setenv("FTK_WARM", "off")  # each would import torch for eight seconds, and nothing here asks it
    known = machines.Machine(cpu_count=2, memory_bytes=8_000_000_000)
    body = {"schema": 1, "key": machines._machine_key(), "machine": asdict(known)}
    (tmp_path / "machine.json").write_text(json.dumps(body))
    (tmp_path / "runs").mkdir()
    slot = try_lock(tmp_path / "runs" / "slot.lock")
    assert slot is not None
    yield tmp_path
    page_module.get_supervisor(str(tmp_path)).stop()
    os.close(slot)


def begin(folder: Path, settings: dict[str, Any], grid: dict[str, list[Any]] | None = None) -> None:
    draft = drafts.default_draft()
    for path, value in settings.items():
        draft = drafts.replace_setting(draft, path, value)
    (folder / "draft.json").write_text(json.dumps({"schema": 1, "draft": draft, "grid": grid or {}}))


def draft(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "draft.json").read_text())["draft"]


def page(section: str = "model") -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app.session_state["configure_section"] = section
    return checked(app.switch_page("pages/configure.py").run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception
    assert not [error.value for error in app.error if "inside the app" in error.value]
    return app


def words(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.error, app.info)
    return "\n".join(str(entry.value) for kind in kinds for entry in kind).replace("\\", "")


def start(app: AppTest) -> AppTest:
    return checked(app.button(key="start").click().run())


def test_every_section_opens(folder: Path) -> None:
    for entry in FORM_SECTIONS:
        app = page(entry.key)
        assert entry.title in [header.value for header in app.header]


def test_the_form_opens_with_the_settings_that_matter_most(folder: Path) -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app = checked(app.switch_page("pages/configure.py").run())
    assert "Basics" in [header.value for header in app.header]
    fields = {str(entry.key) for kind in (app.text_input, app.selectbox, app.number_input) for entry in kind}
    assert {f"field:{path}" for path in BASIC_SETTINGS} <= fields


def test_a_study_starts_from_the_studies_page(folder: Path) -> None:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    app = checked(app.switch_page("pages/studies.py").run())
    app = checked(next(entry for entry in app.button if entry.label == "Set up a study").click().run())
    app = checked(app.switch_page("pages/configure.py").run())  # the test would rerun the page that the click left
    assert "Press **Try several values**" in words(app)
    several = app.button(key="several:lora.r")
    assert several.label == "Try several values"
    app = checked(several.click().run())
    assert app.button(key="several:lora.r").label == "Use one value"
    assert "Press **Try several values**" not in words(app)


def test_a_study_starts_from_the_form_as_well(folder: Path) -> None:
    app = checked(page("lora").button(key="turn_study_on").click().run())
    assert "turn_study_on" not in {entry.key for entry in app.button}
    assert "Press **Try several values**" in words(app)
    app = checked(app.button(key="several:lora.r").click().run())
    assert "Enter two or more values." in words(app)  # in the same place, so that the page does not jump


def test_start_with_defaults_queues_one_run_and_opens_it(folder: Path) -> None:
    app = page()
    app.text_input(key="run_name").set_value("my *first* run").run()
    start(app)
    (run,) = list_runs(folder)
    meta = json.loads(run.meta_path.read_text())
    assert meta["name"] == "my *first* run"
    assert meta["study"] == ""
    assert run.source_path.exists()
    assert app.session_state["run_id"] == run.id


def test_a_second_press_of_the_same_button_starts_nothing(folder: Path) -> None:
    app = page()
    number = app.session_state["start_ticket"]
    start(app)
    app.session_state["start_request"] = number
    checked(app.switch_page("pages/configure.py").run())
    assert len(list_runs(folder)) == 1
    assert launch.claim_start(number) is False


def test_start_works_after_a_second_press_interrupted_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second press interrupts the script of the first before it renews the ticket."""
    app = page()
    with monkeypatch.context() as broken_off:
        broken_off.setattr(launch, "renew_start_ticket", lambda: None)
        start(app)
    number = app.session_state["start_ticket"]
    app.session_state["start_request"] = number
    checked(app.switch_page("pages/configure.py").run())
    start(checked(app.switch_page("pages/configure.py").run()))
    assert len(list_runs(folder)) == 2


def test_a_start_interrupted_by_another_click_is_not_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, real, broken = page(), launch.start_runs, []

    def start_once_broken_off(*asked: Any) -> Any:
        if not broken:
            broken.append(True)
            raise RerunException(RerunData())  # what Streamlit does when the script next reads the session
        return real(*asked)

    monkeypatch.setattr(launch, "start_runs", start_once_broken_off)
    start(app)
    assert broken
    checked(app.switch_page("pages/configure.py").run())
    assert len(list_runs(folder)) == 1
    assert "start_request" not in app.session_state


def test_an_old_start_request_expires(folder: Path) -> None:
    app = page()
    app.session_state["start_request"] = app.session_state["start_ticket"]
    app.session_state["start_pressed"] = time.monotonic() - 60
    checked(app.run())
    assert not list_runs(folder)
    assert "start_request" not in app.session_state


def test_a_press_on_a_summary_that_is_out_of_date_starts_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset is pressed, and Start before the page is drawn anew: the button still has the arguments of before."""
    app = page()
    with monkeypatch.context() as before:
        before.setattr(workspace, "draft_version", lambda: -1)  # the page as it stood
        app = checked(app.run())
    app = start(app)
    assert not list_runs(folder)
    assert "Nothing was started: the settings changed after you saw this summary." in app.warning[0].value
    start(app)
    assert len(list_runs(folder)) == 1


def test_start_uses_the_decisions_on_screen_and_the_current_other_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast is not repeated for Start, although `inference` has changed since it was made."""
    app, real, forecasts = page(), decided_settings.decide_open_settings, []
    monkeypatch.setattr(decided_settings, "decide_open_settings", lambda *given: forecasts.append(1) or real(*given))
    app.session_state["workspace"]["draft"]["inference"]["max_new_tokens"] = 33
    start(checked(app.run()))
    (run,) = list_runs(folder)
    config = read_run_config(run)
    assert config.inference.max_new_tokens == 33
    assert config.training.training_args.gradient_checkpointing is False
    assert str(config.save_dir) == str(folder)
    assert not forecasts


def test_two_starts_are_two_runs(folder: Path) -> None:
    app = start(page())
    checked(app.switch_page("pages/configure.py").run())
    start(app)
    assert len(list_runs(folder)) == 2


def test_an_error_blocks_start_and_links_to_its_field(folder: Path) -> None:
    begin(folder, {"training.training_args.num_train_epochs": "many", "data.prompt": "{mesage}"})
    app = page()
    assert app.button(key="start").disabled
    text = words(app)
    assert "Fix before starting" in text
    assert "it is 'many'" in text
    jump = next(b for b in app.button if b.key.startswith("problem:") and "num_train_epochs" in b.key)
    checked(jump.click().run())
    assert app.session_state["configure_section"] == "training"
    assert app.text_input(key="field:training.training_args.num_train_epochs").value == "many"


def test_problems_with_the_data_block_start(folder: Path) -> None:
    begin(folder, {"data.prompt": "{mesage}"})
    app = page("data")
    assert app.button(key="start").disabled
    assert "mesage" in words(app)
    begin(folder, {"data.path": "/no/such/file.csv"})
    app = page("data")
    assert app.button(key="start").disabled
    assert "/no/such/file.csv" in words(app)


def test_search_shows_matching_settings_and_names_hidden_ones(folder: Path) -> None:
    app = page()
    checked(app.text_input(key="configure_search").set_value("temperature").run())
    assert "Turn on **Sampling** to use: Temperature" in words(app)
    checked(app.text_input(key="configure_search").set_value("learning").run())
    assert app.text_input(key="field:training.training_args.learning_rate").value == "0.003"
    checked(app.text_input(key="configure_search").set_value("").run())
    assert "Model" in [header.value for header in app.header]


def test_a_preset_replaces_the_settings_and_can_be_undone(folder: Path) -> None:
    begin(folder, {"lora.r": 3})
    app = page("lora")
    checked(app.button(key="preset:qlora-8b").click().run())
    assert draft(folder)["model"]["quantize"] is True
    assert app.text_input(key="field:lora.r@1").value == "16"
    checked(app.button(key="undo_replace").click().run())
    assert draft(folder)["lora"]["r"] == 3


OWN_DATA = {"data.prompt": "Order: {message}", "data.train_size": 0.6, "data.test_size": 0.1}


def test_a_preset_lists_its_changes_and_keeps_the_dataset(folder: Path) -> None:
    begin(folder, {**OWN_DATA, "lora.r": 3, "ablation.use_ablate": True}, {"lora.r": [3, 4]})
    app = page("lora")
    listed = app.button(key="preset:demo-cpu").help
    assert "Changes 1 setting: LoRA rank \\(r\\) 3 → 16" in listed
    assert "Keeps the dataset" in listed
    many = app.button(key="preset:qlora-8b").help
    assert "Base model" in many
    assert "more" in many
    before = draft(folder)["data"]
    checked(app.button(key="preset:demo-cpu").click().run())
    assert (draft(folder)["data"], draft(folder)["lora"]["r"]) == (before, 16)
    assert draft(folder)["ablation"]["use_ablate"] is False, "no setting is left that the study varies"
    assert "changes nothing now" in app.button(key="preset:demo-cpu").help


def test_a_preset_with_another_model_withdraws_accepted_problems(folder: Path) -> None:
    begin(folder, {"data.accepted": ["double_bos"]})
    app = page("lora")
    checked(app.button(key="preset:demo-cpu").click().run())
    assert draft(folder)["data"]["accepted"] == ["double_bos"]
    checked(app.button(key="preset:qlora-8b").click().run())
    assert draft(folder)["data"]["accepted"] is None


def test_reset_all_asks_and_keeps_the_dataset(folder: Path) -> None:
    begin(folder, {**OWN_DATA, "lora.r": 8})
    app = page()
    assert "Reset **1 setting** to the defaults? LoRA rank (r)." in words(app)
    assert app.button(key="reset_all").label == "Reset 1 setting"
    before = draft(folder)["data"]
    checked(app.button(key="reset_all").click().run())
    assert (draft(folder)["data"], draft(folder)["lora"]["r"]) == (before, 16)
    assert "reset_all" not in [button.key for button in app.button]


def test_start_says_what_it_trains(folder: Path) -> None:
    begin(folder, {"data.train_size": 301, "data.test_size": 9})
    text = words(page())
    assert re.search(r"Train \*\*demo-model\*\* on \*\*orders\.csv\*\*, 301 training rows, about \d+ (s|min)", text)
    begin(folder, {"data.train_size": 301, "ablation.use_ablate": True}, {"lora.r": [4, 8]})
    assert "Train 6 runs of **demo-model** on **orders.csv**, 301 training rows, about" in words(page())
    begin(folder, {"data.train_size": 301, "ablation.use_ablate": True}, {"data.train_size": [9, 80]})
    assert "Train 6 runs of **demo-model** on **orders.csv**, about" in words(page())
    begin(folder, {"data.path": "/no/such/file.csv"})
    assert "Train **" not in words(page())


def test_changes_are_listed_with_their_defaults_and_can_be_reset(folder: Path) -> None:
    begin(folder, {"lora.r": 8, "training.training_args.learning_rate": 2e-4})
    app = page()
    text = words(app)
    assert "LoRA rank (r): 16 → **8**" in text
    assert "Learning rate: 0.003 → **2e-4**" in text
    checked(app.button(key="undo:lora.r").click().run())
    assert draft(folder)["lora"]["r"] == 16
    checked(app.button(key="reset_all").click().run())
    assert drafts.find_changed_settings(draft(folder)) == [
        drafts.SettingChange("save_dir", "./experiments", str(folder))
    ]
    assert "**Changed from the defaults** :gray[none]" in words(app)


def test_a_section_is_reset_by_itself(folder: Path) -> None:
    begin(folder, {"lora.r": 8, "inference.top_k": 7})
    app = page("lora")
    checked(app.button(key="reset_section").click().run())
    assert (draft(folder)["lora"]["r"], draft(folder)["inference"]["top_k"]) == (16, 7)


def opened_import(app: AppTest) -> AppTest:
    """Open the dialog and press its button again: the test runner can't rerun a dialog by itself."""
    checked(app.button(key="open_import").click().run())
    app.button(key="open_import").click()
    return app


def import_text(app: AppTest, text: str) -> AppTest:
    opened_import(app).text_area(key="import_text").set_value(text)
    return checked(app.button(key="import_apply").click().run())


def test_a_pasted_file_replaces_the_settings(folder: Path) -> None:
    app = page()
    import_text(app, "lora: {r: 4}\ntraining: {training_args: {learning_rate: 1e-4}}\n")
    assert draft(folder)["lora"]["r"] == 4
    assert draft(folder)["training"]["training_args"]["learning_rate"] == 1e-4


def test_an_uploaded_study_is_read_as_several_values(folder: Path) -> None:
    app = page()
    text = yaml.safe_dump({"ablation": {"use_ablate": True, "study_name": "ranks"}, "lora": {"r": [4, 8]}})
    opened_import(app).file_uploader(key="import_file").upload("study.yml", text.encode(), "application/yaml")
    checked(app.button(key="import_apply").click().run())
    assert json.loads((folder / "draft.json").read_text())["grid"] == {"lora.r": [4, 8]}


def test_an_import_with_an_error_changes_nothing(folder: Path) -> None:
    begin(folder, {"lora.r": 5})
    app = import_text(page(), "lora: {r: 0, lora_alpha: 9}\nqa: {}\nmodel: {quantize: maybe}\n")
    text = words(app)
    assert "Nothing was changed: 3 settings" in text
    for path in ("lora.r", "qa", "model.quantize"):
        assert path in text
    assert draft(folder)["lora"]["r"] == 5
    app = import_text(page(), "lora: {r: 4\n")
    assert "not plain YAML" in words(app)


def test_the_export_shows_the_draft_and_the_command(folder: Path) -> None:
    begin(folder, {"lora.r": 8, "ablation.use_ablate": True}, {"lora.r": [8, 16]})
    app = page()
    assert "python -m toolkit run config.yml" in [code.value for code in app.code]
    checked(app.button(key="open_export").click().run())
    text = next(code.value for code in app.code if code.value.startswith("# finetuning-toolkit config"))
    assert load_draft(text)["lora"]["r"] == [8, 16]


def test_a_study_lists_its_runs_and_queues_them_under_its_name(folder: Path) -> None:
    grid = {"lora.r": [8, 16], "training.training_args.learning_rate": [1e-3, 2e-3], "lora.bias": ["none"]}
    begin(folder, {"ablation.use_ablate": True, "ablation.study_name": "ranks"}, grid)
    app = page("study")
    assert "**12 runs** will be queued under the study **ranks**" in words(app)
    assert "4 combinations × 3 seeds = 12 runs." in words(app)
    table = app.dataframe[0].value
    assert list(table.columns) == ["Run", "LoRA rank (r)", "Learning rate"]
    assert list(table["LoRA rank (r)"]) == ["8", "8", "16", "16"]
    assert app.button(key="start").label == "Start 12 runs"
    start(app)
    runs = list_runs(folder)
    metas = [json.loads(run.meta_path.read_text()) for run in reversed(runs)]
    assert [meta["study"] for meta in metas] == ["ranks"] * 12
    assert [meta["settings"]["lora.r"] for meta in metas] == [8, 8, 16, 16] * 3
    assert len({meta["name"] for meta in metas}) == 12


def test_a_study_by_tpe_says_what_it_draws_and_what_it_chooses(folder: Path) -> None:
    grid = {"lora.r": [2, 4, 8, 16, 32], "training.training_args.learning_rate": [1e-3, 2e-3, 3e-3]}
    begin(folder, {"ablation.use_ablate": True, "ablation.study_name": "find"}, grid)
    app = page("study")
    assert "field:ablation.trials" not in {str(box.key) for box in app.text_input}
    app = checked(app.selectbox(key="field:ablation.method").set_value("tpe").run())
    app = checked(app.text_input(key="field:ablation.trials").set_value("8").run())
    text = words(app)
    assert "4 combinations × 1 seed = 4 runs." in text and "drawn at random from 15 combinations" in text
    assert "TPE then chooses 4 further combinations, one after another, by the results" in text
    assert app.button(key="start").label == "Start 8 runs"
    start(app)
    assert len(list_runs(folder)) == 4
    (path,) = (folder / "studies").glob("*/study.json")
    asked = json.loads(path.read_text())
    assert (asked["method"], asked["budget"], asked["repeats"]) == ("tpe", 8, [42])


def test_a_study_that_is_started_again_queues_nothing_and_other_values_are_a_question(folder: Path) -> None:
    study = {"ablation.use_ablate": True, "ablation.study_name": "ranks"}
    begin(folder, study, {"lora.r": [8, 16, 16]})
    app = page("study")
    assert "lists 1 value twice; each value is trained once" in words(app)
    start(app)
    assert len(list_runs(folder)) == 6
    app = page("study")
    assert app.button(key="start").disabled
    assert "6 of them are trained or queued already and are not trained again" in words(app)
    begin(folder, study, {"lora.r": [8, 32]})
    app = page("study")
    assert "already exists with other values: LoRA rank (r) 8, 16. Now: LoRA rank (r) 8, 32." in words(app)
    assert app.button(key="start").disabled
    app = checked(app.button(key="study_reuse").click().run())
    assert app.button(key="start").disabled and "already exists" not in words(app)
    begin(folder, study, {"lora.r": [8, 32]})
    app = checked(page("study").button(key="study_rename").click().run())
    assert draft(folder)["ablation"]["study_name"] == "ranks 2"
    assert "3 of them are trained or queued already" in words(app), "rank 8 is known from the other study"
    start(app)
    assert len(list_runs(folder)) == 9


def test_trials_with_different_read_options_have_their_own_tables(folder: Path) -> None:
    file = folder / "rows.csv"
    file.write_text("message,answer\n" + "".join(f"m{n},a{n}\n" for n in range(20)) + "short\n" * 4)
    settings = {"data.path": str(file), "data.bad_rows": "skip", "ablation.use_ablate": True}
    begin(folder, settings, {"data.bad_rows": ["skip", "fill"]})
    start(page())
    rows = {json.loads(run.meta_path.read_text())["settings"]["data.bad_rows"]: load_table(run.source_path).rows
            for run in list_runs(folder)}  # fmt: skip
    assert rows == {"skip": 20, "fill": 24}


def test_a_study_with_too_many_runs_is_refused(folder: Path) -> None:
    grid = {"lora.r": list(range(1, 30)), "lora.lora_alpha": list(range(1, 30))}
    begin(folder, {"ablation.use_ablate": True}, grid)
    app = page("study")
    assert app.button(key="start").disabled
    assert "The study has 841 trials; the maximum is 500." in words(app)


def test_the_accelerate_file_is_shown_for_several_processes(folder: Path) -> None:
    begin(folder, {"accelerate": True, "num_processes": 2})
    files = [yaml.safe_load(code.value) for code in page("precision").code if "num_processes" in code.value]
    assert files and files[0]["num_processes"] == 2


def test_settings_survive_a_refresh(folder: Path) -> None:
    app = page("lora")
    checked(app.text_input(key="field:lora.r").set_value("12").run())
    assert page("lora").text_input(key="field:lora.r").value == "12"


@pytest.mark.parametrize(
    ("path", "typed"),
    [("save_dir", "/tmp/" + "x" * 300), ("save_dir", "~no-such-user/runs"), ("save_dir", "/dev/null/runs"),
     ("data.path", "/tmp/" + "x" * 300), ("model.hf_model_ckpt", "~no-such-user/model")],
)  # fmt: skip
def test_an_impossible_path_is_reported_and_can_be_corrected(folder: Path, path: str, typed: str) -> None:
    begin(folder, {path: typed})
    app = page({"save_dir": "run", "data.path": "data"}.get(path, "model"))
    assert "Fix before starting" in words(app)
    assert app.button(key="start").disabled
    boxes = [box for kind in (app.text_input, app.selectbox) for box in kind if box.key == f"field:{path}"]
    assert [box.value for box in boxes] == [typed]

"""The settings form in Streamlit's test runner: drawing, editing, errors, several values and reset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.testing.v1 import AppTest

from toolkit.settings import ablation
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import FieldSpec, field_specs_by_path, list_field_specs
from toolkit.settings.form_layout import FORM_SECTIONS, get_field_layout
from toolkit.ui.forms.widgets import WIDGET_RULES, find_widget_rule, read_list, read_size

EVERYTHING_ON = {
    "model.quantize": True, "model.bitsandbytes.load_in_8bit": True, "inference.do_sample": True, "accelerate": True,
    "num_machines": 2, "ablation.use_ablate": True, "ablation.method": "tpe", "ablation.objective": "pass_rules",
    "data.file_type": "huggingface",
}  # fmt: skip


def form_page() -> None:
    import streamlit as st

    from toolkit.settings.ablation import check_value_grid
    from toolkit.settings.form_layout import FORM_SECTIONS
    from toolkit.ui.forms import form
    from toolkit.ui.workspace import workspace

    problems = check_value_grid(workspace.current_draft(), workspace.current_grid())
    for section in (
        [s.key for s in FORM_SECTIONS] if st.session_state.get("sections") is None else st.session_state.sections
    ):
        st.session_state[f"advanced:{section}"] = True
        form.render_section(section, problems)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path))
    yield tmp_path


def page(*sections: str) -> AppTest:
    app = AppTest.from_function(form_page, default_timeout=30)
    if sections:
        app.session_state["sections"] = list(sections)
    return checked(app.run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception
    return app


def begin(folder: Path, settings: dict[str, Any], grid: dict[str, list[Any]] | None = None) -> None:
    draft = drafts.default_draft()
    for path, value in settings.items():
        draft = drafts.replace_setting(draft, path, value)
    (folder / "draft.json").write_text(json.dumps({"schema": 1, "draft": draft, "grid": grid or {}}))


def saved(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "draft.json").read_text())


def value(folder: Path, path: str) -> Any:
    return drafts.get_setting(saved(folder)["draft"], path)


def keys(app: AppTest) -> set[str]:
    kinds = ("text_input", "text_area", "selectbox", "multiselect", "toggle", "button_group")
    return {widget.key for kind in kinds for widget in getattr(app, kind) if widget.key}


def notes(app: AppTest) -> str:
    return "\n".join(entry.value for entry in app.markdown).replace("\\", "")


def test_every_setting_is_drawn_when_everything_is_on(folder: Path) -> None:
    begin(folder, EVERYTHING_ON)
    drawn = {key.removeprefix("field:") for key in keys(page()) if key.startswith("field:") and key.count(":") == 1}
    assert drawn == set(field_specs_by_path())
    assert len(drawn) >= 56


def test_every_setting_can_be_drawn_with_several_values(folder: Path) -> None:
    fixed = {*ablation.STUDY_WIDE_SETTINGS}
    grid = {spec.path: [spec.default] for spec in list_field_specs() if spec.path not in fixed}
    begin(folder, EVERYTHING_ON, grid)
    drawn = {key.removeprefix("grid:") for key in keys(page()) if key.startswith("grid:")}
    assert drawn == set(grid)


def test_every_widget_rule_is_used_and_an_unknown_kind_fails() -> None:
    used = {find_widget_rule(spec, get_field_layout(spec.path)).name for spec in list_field_specs()}
    assert used == {entry.name for entry in WIDGET_RULES}
    strange = FieldSpec("x", "color", False, None, "")  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="x"):
        find_widget_rule(strange, get_field_layout("x"))


def test_every_widget_has_a_label_and_a_help_text(folder: Path) -> None:
    begin(folder, EVERYTHING_ON)
    app = page()
    for spec in list_field_specs():
        found = [w for kind in ("text_input", "text_area", "selectbox", "multiselect", "toggle")
                 for w in getattr(app, kind) if w.key == f"field:{spec.path}"]  # fmt: skip
        for widget in found:
            assert get_field_layout(spec.path).label in widget.label.replace("\\", "")
            if spec.kind != "size":
                assert "Default:" in widget.help.replace("\\", "")


def test_hidden_settings_keep_their_values(folder: Path) -> None:
    begin(folder, {"inference.do_sample": True, "inference.temperature": 0.5})
    app = page("inference")
    checked(app.toggle(key="field:inference.do_sample").set_value(False).run())
    assert "field:inference.temperature" not in keys(app)
    checked(app.toggle(key="field:inference.do_sample").set_value(True).run())
    assert app.text_input(key="field:inference.temperature").value == "0.5"


@pytest.mark.parametrize(
    ("section", "path", "typed", "held", "shown"),
    [
        ("training", "training.training_args.learning_rate", "0.0002", 0.0002, "2e-4"),
        ("training", "training.training_args.num_train_epochs", "5", 5, "5"),
        ("training", "training.training_args.warmup_ratio", "", None, ""),
        ("data", "data.train_size", "0.5", 0.5, "0.5"),
        ("sequence", "training.sft_args.max_seq_length", " 64 ", 64, "64"),
    ],
)
def test_numbers_are_stored_as_numbers(
    folder: Path, section: str, path: str, typed: str, held: Any, shown: str
) -> None:
    app = page(section)
    checked(app.text_input(key=f"field:{path}").set_value(typed).run())
    assert value(folder, path) == held
    assert type(value(folder, path)) is type(held)
    assert app.text_input(key=f"field:{path}").value == shown


def test_a_typed_share_is_restored_after_changing_the_mode(folder: Path) -> None:
    app = page("data")
    key = "field:data.train_size"
    checked(app.text_input(key=key).set_value("0.7").run())
    for way, held in (("Rows", 200), ("Share", 0.7)):
        checked(app.segmented_control(key=f"{key}:mode").set_value(way).run())
        if way == "Rows":
            checked(app.text_input(key=key).set_value(str(held)).run())
        assert value(folder, "data.train_size") == held


def test_invalid_text_stays_in_the_box_with_its_error_below(folder: Path) -> None:
    app = page("training")
    key = "field:training.training_args.num_train_epochs"
    checked(app.text_input(key=key).set_value("many").run())
    assert app.text_input(key=key).value == "many"
    assert value(folder, "training.training_args.num_train_epochs") == "many"
    assert "it is 'many'" in notes(app)
    again = page("training")
    assert again.text_input(key=key).value == "many"


def test_choices_and_lists_are_stored(folder: Path) -> None:
    app = page("model", "lora")
    checked(app.selectbox(key="field:model.device_map").set_value("cpu").run())
    assert value(folder, "model.device_map") == "cpu"
    checked(app.multiselect(key="field:lora.target_modules").set_value(["q_proj", "v_proj"]).run())
    assert value(folder, "lora.target_modules") == ["q_proj", "v_proj"]
    checked(app.multiselect(key="field:lora.target_modules").set_value([]).run())
    assert value(folder, "lora.target_modules") is None


AUTO_FLAGS = (
    "data.use_chat_template", "training.training_args.bf16", "training.training_args.gradient_checkpointing",
    "training.training_args.tf32", "shard_model",
)  # fmt: skip


def test_a_setting_that_is_decided_automatically_has_three_states(folder: Path) -> None:
    begin(folder, EVERYTHING_ON)
    app = page("sequence", "precision", "quantization")
    three = {control.key.removeprefix("field:") for control in app.button_group if control.options[:1] == ["Auto"]}
    assert three == set(AUTO_FLAGS)
    for path in AUTO_FLAGS:
        assert app.segmented_control(key=f"field:{path}").value == "Auto", "lit, not an empty box"
        for word, held in (("On", True), ("Off", False), ("Auto", None)):
            app = checked(app.segmented_control(key=f"field:{path}").set_value(word).run())
            assert value(folder, path) is held
            assert page("sequence", "precision").segmented_control(key=f"field:{path}").value == word
    assert "On if the GPU supports it." in "\n".join(entry.value for entry in app.caption).replace("\\", "")
    two = app.segmented_control(key="field:model.bitsandbytes.load_in_4bit")
    assert (two.options, two.value) == (["On", "Off"], "On")


def test_several_values_of_an_automatic_setting_include_auto(folder: Path) -> None:
    path = "training.training_args.bf16"
    begin(folder, {"ablation.use_ablate": True})
    app = checked(page("precision").button(key=f"several:{path}").click().run())
    assert app.segmented_control(key=f"grid:{path}").value == ["Auto"]
    checked(app.segmented_control(key=f"grid:{path}").set_value(["Off", "Auto"]).run())
    assert saved(folder)["grid"] == {path: [None, False]}


def test_a_flag_that_a_file_left_empty_is_shown_as_auto(folder: Path) -> None:
    begin(folder, {"inference.use_cache": None, "training.training_args.bf16": "maybe"})
    app = page("inference", "precision")
    assert app.segmented_control(key="field:inference.use_cache").value == "Auto"
    assert app.segmented_control(key="field:training.training_args.bf16").value is None
    assert value(folder, "training.training_args.bf16") == "maybe"


def test_values_outside_the_suggestions_are_accepted(folder: Path) -> None:
    begin(folder, {"model.hf_model_ckpt": "someone/other-model", "lora.target_modules": ["my_proj"]})
    app = page("model", "lora")
    assert app.selectbox(key="field:model.hf_model_ckpt").value == "someone/other-model"
    assert app.selectbox(key="field:model.hf_model_ckpt").proto.accept_new_options
    assert app.multiselect(key="field:lora.target_modules").value == ["my_proj"]
    assert app.multiselect(key="field:lora.target_modules").proto.accept_new_options
    layers = field_specs_by_path()["lora.layers_to_transform"]
    assert read_list(layers, ["0-2", "7", "x"]) == [0, 1, 2, 7, "x"]
    assert read_list(layers, []) is None


def test_a_single_layer_index_stays_a_number(folder: Path) -> None:
    begin(folder, {"lora.layers_to_transform": 3})
    app = page("lora")
    assert app.multiselect(key="field:lora.layers_to_transform").value == ["3"]
    checked(app.text_input(key="field:lora.r").set_value("8").run())
    assert value(folder, "lora.layers_to_transform") == 3


def test_shares_and_row_counts_are_distinguished() -> None:
    size = field_specs_by_path()["data.train_size"]
    assert read_size(size, "1", as_share=True) == 1.0
    assert type(read_size(size, "1", as_share=True)) is float
    assert type(read_size(size, "1", as_share=False)) is int
    assert type(read_size(size, "200.0", as_share=False)) is int
    assert read_size(size, "80%", as_share=True) == 0.8
    assert read_size(size, "0.8", as_share=False) == 0.8
    assert read_size(size, "half", as_share=True) == "half"


def test_a_change_is_marked_and_reset(folder: Path) -> None:
    app = page("lora")
    assert "●" not in app.text_input(key="field:lora.r").label
    checked(app.text_input(key="field:lora.r").set_value("8").run())
    assert "●" in app.text_input(key="field:lora.r").label
    checked(app.button(key="reset:lora.r").click().run())
    assert page("lora").text_input(key="field:lora.r").value == "16"
    assert value(folder, "lora.r") == 16


def box_of(app: AppTest, path: str) -> Any:
    """Return the box of a setting; its key grows a number when the draft is replaced."""
    return next(box for box in app.text_input if str(box.key).split("@")[0] in (f"field:{path}", f"grid:{path}"))


def press(app: AppTest, key: str) -> Any:
    """Press a button; return a box of the page before it."""
    before = box_of(app, "lora.r")
    for kind in ("text_input", "selectbox", "multiselect", "toggle", "segmented_control"):
        for widget in getattr(app, kind):
            widget.set_value(widget.value)  # else it would take its value from the page of then
    checked(app.run())  # the page before is another tree
    checked(app.button(key=key).click().run())
    return before


def report(app: AppTest, before: Any) -> None:
    """Send the values of a page before once more, as a browser does that has not drawn the new page yet."""
    states = before.root.get_widget_states().widgets
    pressed_none = [state for state in states if state.WhichOneof("value") != "trigger_value"]
    checked(app._run(WidgetStates(widgets=pressed_none)))


def test_a_late_report_of_the_widgets_before_a_reset_is_no_entry(folder: Path) -> None:
    app = page("lora")
    checked(box_of(app, "lora.r").set_value("8").run())
    before = press(app, "reset:lora.r")
    report(app, before)
    assert value(folder, "lora.r") == 16
    checked(app.run())
    assert box_of(app, "lora.r").value == "16"
    checked(box_of(app, "lora.r").set_value("8").run())
    assert value(folder, "lora.r") == 8, "an entry in the new box, though the old one has had this value"


def test_a_late_report_of_a_box_with_several_values_brings_no_study_back(folder: Path) -> None:
    begin(folder, {"ablation.use_ablate": True}, {"lora.r": [4, 8]})
    app = page("lora")
    report(app, press(app, "several:lora.r"))
    assert saved(folder)["grid"] == {}


def test_what_was_typed_before_the_new_widgets_arrived_is_kept(folder: Path) -> None:
    app = page("lora")
    checked(box_of(app, "lora.r").set_value("8").run())
    before = press(app, "reset:lora.r")
    before.set_value("32")
    report(app, before)
    assert value(folder, "lora.r") == 32


def test_a_setting_takes_several_values_and_goes_back(folder: Path) -> None:
    begin(folder, {"ablation.use_ablate": True})
    app = page("lora")
    checked(app.button(key="several:lora.r").click().run())
    checked(app.text_input(key="grid:lora.r").set_value("8, 16, abc").run())
    assert saved(folder)["grid"] == {"lora.r": [8, 16, "abc"]}
    assert app.text_input(key="grid:lora.r").value == "8, 16, abc"
    assert "it is 'abc'" in notes(app)
    checked(app.button(key="several:lora.r").click().run())
    assert saved(folder)["grid"] == {}
    assert value(folder, "lora.r") == 8


def test_several_values_keep_the_order_of_the_schema(folder: Path) -> None:
    begin(folder, {"ablation.use_ablate": True})
    app = page("lora")
    checked(app.button(key="several:lora.bias").click().run())
    checked(app.button(key="several:lora.r").click().run())
    assert list(saved(folder)["grid"]) == ["lora.r", "lora.bias"]
    checked(app.button(key="reset:lora.r").click().run())
    assert list(saved(folder)["grid"]) == ["lora.bias"]


def test_values_from_a_file_are_shown_as_text(folder: Path) -> None:
    begin(folder, {"lora.bias": "<b>x</b> :red[**y**] $z$"})
    body = "\n".join(entry.value for entry in page("lora").markdown)
    assert "\\<b\\>" in body
    assert ":red[**y**]" not in body


def test_every_section_can_be_drawn_alone(folder: Path) -> None:
    for entry in FORM_SECTIONS:
        assert keys(page(entry.key)), entry.key


def test_long_texts_share_a_box_separated_by_dashes(folder: Path) -> None:
    app = page("run")
    box = app.text_area(key="field:training.pinned_prompts")
    app = checked(box.set_value("one, two\nlines\n---\n\n---\nanother").run())
    assert value(folder, "training.pinned_prompts") == ["one, two\nlines", "another"]
    app = checked(app.text_area(key="field:training.pinned_prompts").set_value(" ").run())
    assert value(folder, "training.pinned_prompts") is None

"""Every setting has a section, a label, a help text, and conditions under which it is shown."""

from __future__ import annotations

from toolkit.settings import form_layout
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs


def test_every_setting_is_in_exactly_one_section() -> None:
    placed = [path for entry in form_layout.FORM_SECTIONS for path in form_layout.list_section_settings(entry.key)]
    assert sorted(placed) == sorted(spec.path for spec in list_field_specs())
    both = [
        p
        for entry in form_layout.FORM_SECTIONS
        for level in ("basic", "advanced")
        for p in form_layout.list_section_settings(entry.key, level)
    ]
    assert sorted(both) == sorted(placed)


def test_the_table_names_settings_and_sections_that_exist() -> None:
    keys = {entry.key for entry in form_layout.FORM_SECTIONS}
    assert len(form_layout._FIELD_LAYOUTS) >= 56
    for path, place in form_layout._FIELD_LAYOUTS.items():
        assert path in field_specs_by_path(), path
        assert place.section in keys, path
        assert place.label, path
        assert all(other in field_specs_by_path() for other, _ in place.shown_when), path


def test_labels_are_unique_and_have_no_underscores() -> None:
    labels = [form_layout.get_field_layout(spec.path).label for spec in list_field_specs()]
    assert len(labels) == len(set(labels))
    assert not any("_" in label for label in labels)


def test_a_setting_without_a_row_gets_a_place_from_its_class() -> None:
    place = form_layout.get_field_layout("lora.some_new_thing")
    assert (place.section, place.label, place.level) == ("lora", "Some new thing", "advanced")
    assert form_layout.get_field_layout("brand_new").section == "run"


def test_settings_without_effect_are_hidden_until_they_have_one() -> None:
    draft = default_draft()
    hidden = [spec.path for spec in list_field_specs() if not form_layout.is_setting_shown(spec.path, draft)]
    assert "model.bitsandbytes.load_in_4bit" in hidden
    assert "ablation.study_name" in hidden
    assert "inference.temperature" in hidden
    assert "num_processes" in hidden
    assert "data.hub_split" in hidden
    for switch in ("model.quantize", "model.bitsandbytes.load_in_8bit", "inference.do_sample", "accelerate"):
        draft = replace_setting(draft, switch, True)
    assert not form_layout.is_setting_shown("main_process_ip", draft), "one machine meets nobody"
    draft = replace_setting(draft, "num_machines", 2)
    draft = replace_setting(draft, "ablation.use_ablate", True)
    draft = replace_setting(draft, "ablation.method", "tpe")
    draft = replace_setting(draft, "ablation.objective", "pass_rules")
    draft = replace_setting(draft, "data.file_type", "huggingface")
    assert all(form_layout.is_setting_shown(spec.path, draft) for spec in list_field_specs())


def test_a_setting_that_one_trial_uses_is_shown() -> None:
    path = "inference.temperature"
    assert not form_layout.is_setting_shown(path, default_draft(), {"inference.do_sample": [False]})
    assert form_layout.is_setting_shown(path, default_draft(), {"inference.do_sample": [False, True]})


def test_search_finds_by_label_name_and_description() -> None:
    assert form_layout.search_settings("learning rate")[0] == "training.training_args.learning_rate"
    assert "lora.r" in form_layout.search_settings("rank")
    assert form_layout.search_settings("max_seq_length") == ("training.sft_args.max_seq_length",)
    assert "model.bitsandbytes.bnb_4bit_use_double_quant" in form_layout.search_settings("NESTED quantization")
    assert form_layout.search_settings("") == ()
    assert form_layout.search_settings("no such thing") == ()


def test_help_has_description_limits_empty_and_default() -> None:
    text = form_layout.help_text("lora.r")
    for part in ("Lora rank.", "from 1 to 4096", "Empty:", "Default: 16", "lora.r"):
        assert part in text
    for spec in list_field_specs():
        text = form_layout.help_text(spec.path)
        assert spec.description.rstrip(".") in text
        assert ("Empty:" in text or "Auto:" in text) == spec.optional
        assert ("Auto:" in text) == (spec.kind == "flag" and spec.optional and spec.default is None)
        assert "Default:" in text


def test_the_basics_are_existing_settings_that_the_other_sections_have_too() -> None:
    placed = {
        path for entry in form_layout.FORM_SECTIONS for path in form_layout.list_section_settings(entry.key, "basic")
    }
    assert form_layout.list_section_settings("basics") == form_layout.BASIC_SETTINGS
    assert set(form_layout.BASIC_SETTINGS) <= placed
    assert form_layout.list_section_settings("basics", "advanced") == ()
    assert form_layout.get_form_section("basics") is form_layout.BASICS

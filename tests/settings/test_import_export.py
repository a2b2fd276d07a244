"""Every preset is a valid config and keeps the user's data."""

from __future__ import annotations

import pytest

from toolkit.config import Config
from toolkit.settings.draft import default_draft, find_differences, replace_setting, reset_except_data
from toolkit.settings.import_export import (
    PRESET_SECTIONS,
    apply_preset,
    find_preset_changes,
    import_settings,
    load_presets,
)
from toolkit.settings.validation import parse_draft, validate_draft
from toolkit.system.paths import PRESETS


def test_every_file_is_a_preset() -> None:
    assert [preset.name for preset in load_presets()] == ["demo-cpu", "lora-instruct", "qlora-8b"]
    assert len(load_presets()) == len(list(PRESETS.iterdir())) - sum(p.suffix != ".yml" for p in PRESETS.iterdir())


@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.name)
def test_a_preset_is_valid_alone_and_on_a_draft_without_warnings(preset) -> None:  # type: ignore[no-untyped-def]
    config, problems = validate_draft(apply_preset(preset, default_draft()))
    assert config is not None
    assert problems == []
    assert parse_draft(import_settings(preset.path.read_text(encoding="utf-8")).draft) == config
    assert preset.title
    assert preset.description.endswith(".")


def test_the_demo_is_the_default() -> None:
    demo = load_presets()[0]
    assert parse_draft(apply_preset(demo, default_draft())) == Config()


def test_a_preset_keeps_data_and_folder_and_drops_other_changes() -> None:
    draft = replace_setting(
        replace_setting(replace_setting(default_draft(), "data.prompt", "{mine}"), "save_dir", "./here"), "lora.r", 3
    )
    applied = apply_preset(load_presets()[2], draft)
    assert applied["data"]["prompt"] == "{mine}"
    assert applied["save_dir"] == "./here"
    assert applied["lora"]["r"] == 16
    assert applied["model"]["quantize"] is True


OWN_DATA = {
    "data.file_type": "json", "data.path": "/mine/tickets.json", "data.prompt": "{mine}", "data.prompt_stub": "{label}",
    "data.train_size": 0.7, "data.test_size": 0.1, "data.train_test_split_seed": 5, "data.stratify": True,
    "inference.max_new_tokens": 77, "save_dir": "./here",
}  # fmt: skip


@pytest.mark.parametrize("preset", load_presets(), ids=lambda preset: preset.name)
def test_a_preset_never_changes_dataset_templates_or_split(preset) -> None:  # type: ignore[no-untyped-def]
    draft = default_draft()
    for path, value in OWN_DATA.items():
        draft = replace_setting(draft, path, value)
    draft = replace_setting(draft, "lora.r", 3)
    applied = apply_preset(preset, draft)
    changes = find_differences(draft, applied)
    assert {change.path.split(".")[0] for change in changes} <= set(PRESET_SECTIONS)
    assert {name: value for name, value in applied.items() if name not in PRESET_SECTIONS} == {
        name: value for name, value in draft.items() if name not in PRESET_SECTIONS
    }
    assert changes == find_preset_changes(preset, draft)
    assert ("lora.r", 3, 16) in [(change.path, change.default, change.value) for change in changes]
    assert find_preset_changes(preset, applied) == []


def test_a_full_reset_keeps_dataset_templates_split_and_folder() -> None:
    draft = default_draft()
    for path, value in {**OWN_DATA, "lora.r": 3, "ablation.use_ablate": True}.items():
        draft = replace_setting(draft, path, value)
    reset = reset_except_data(draft)
    assert (reset["data"], reset["save_dir"]) == (draft["data"], "./here")
    assert {change.path for change in find_differences(draft, reset)} == {
        "lora.r", "ablation.use_ablate", "inference.max_new_tokens",
    }  # fmt: skip

"""Every preset is a valid config and keeps the user's data."""

from __future__ import annotations

import pytest

from toolkit.config import Config
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.settings.import_export import apply_preset, import_settings, load_presets
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

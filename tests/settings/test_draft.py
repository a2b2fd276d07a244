"""Drafts are read and replaced by path, and never changed in place."""

from __future__ import annotations

import copy

import pytest

from toolkit.config import Config
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import list_field_specs
from toolkit.settings.import_export import export_settings, import_settings


def test_every_setting_survives_export_and_import_unchanged() -> None:
    draft = drafts.default_draft()
    other = {"flag": True, "whole": 9, "number": 0.25, "size": 7, "words": ["a_proj"], "indexes": [3, 0]}
    special = {
        "data.file_type": "json", "data.path": "rows: #1.json", "data.prompt": "# {x}\n  'y': \"z\" ",
        "data.prompt_stub": "- {x}\n", "model.device_map": "cuda:1", "lora.task_type": None, "lora.bias": "all",
        "model.bitsandbytes.bnb_4bit_compute_dtype": "float16", "model.bitsandbytes.bnb_4bit_quant_type": "fp4",
        "training.training_args.optim": "sgd", "training.training_args.lr_scheduler_type": "linear",
        "model.bitsandbytes.load_in_8bit": False, "training.training_args.fp16": None,
        "training.training_args.seed": 0, "save_dir": "./yes", "lora.layers_pattern": "h", "model.hf_model_ckpt": "1e5",
        "training.sft_args.max_seq_length": 64, "data.delimiter": "\t", "data.bad_rows": "skip", "data.quotes": "lines",
        "data.accepted": ["placeholder"], "training.sft_args.packing": "packed",
        "lora.layers_to_transform": 3, "ablation.objective": "chrf", "ablation.method": "tpe",
    }  # fmt: skip
    for spec in list_field_specs():
        value = special[spec.path] if spec.path in special else other.get(spec.kind, "0123")
        draft = drafts.replace_setting(draft, spec.path, value)
    assert import_settings(export_settings(draft)).draft == draft
    count = sum(drafts.get_setting(draft, spec.path) != spec.default for spec in list_field_specs())
    assert count >= 45, "too few settings were changed to mean anything"


def test_none_survives_for_every_optional_setting() -> None:
    draft = drafts.default_draft()
    optional = [spec.path for spec in list_field_specs() if spec.optional]
    for path in optional:
        draft = drafts.replace_setting(draft, path, None)
    assert len(optional) > 45
    assert import_settings(export_settings(draft)).draft == draft


def test_replacing_a_setting_does_not_change_the_old_draft() -> None:
    draft = drafts.default_draft()
    before = copy.deepcopy(draft)
    after = drafts.replace_setting(draft, "lora.target_modules", ["q_proj"])
    assert draft == before
    assert drafts.get_setting(after, "lora.target_modules") == ["q_proj"]
    with pytest.raises(KeyError):
        drafts.replace_setting(draft, "lora.rank", 8)


def test_a_missing_setting_has_its_default() -> None:
    assert drafts.get_setting({}, "lora.r") == 16
    assert drafts.get_setting({"lora": None}, "lora.r") == 16
    assert drafts.get_setting({}, "no.such") is None


def test_changed_settings_are_listed_with_default_and_value() -> None:
    draft = drafts.replace_setting(drafts.replace_setting(drafts.default_draft(), "lora.r", 8), "inference.top_p", None)
    assert drafts.find_changed_settings(draft) == [
        drafts.SettingChange("lora.r", 16, 8),
        drafts.SettingChange("inference.top_p", 1.0, None),
    ]
    assert drafts.find_changed_settings(drafts.default_draft()) == []
    assert drafts.find_changed_settings({}) == []


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [(6.0, 6, False), (0, False, True), (0.8, 1, True), (None, False, True), (["a"], ["a"], False), (32, "32", True)],
)
def test_when_two_values_differ(first: object, second: object, differ: bool) -> None:
    assert drafts.setting_values_differ(first, second) is differ


def test_defaults_are_filled_in_schema_order_and_unknown_keys_are_kept() -> None:
    draft = drafts.fill_defaults({"lora": {"r": 8, "rank": 1}, "model": {"bitsandbytes": None}, "qa": 1})
    assert draft["lora"]["rank"] == 1
    assert draft["qa"] == 1
    assert draft["model"]["bitsandbytes"] == Config().model.bitsandbytes.model_dump()
    assert next(iter(draft)) == "save_dir"


def test_accepted_blocking_problems_are_added_to_earlier_ones() -> None:
    from toolkit.settings.import_export import accept_hard_stops

    draft = drafts.replace_setting(drafts.default_draft(), "data.accepted", ["placeholder"])
    assert drafts.get_setting(accept_hard_stops(draft, ["double_bos"]), "data.accepted") == [
        "placeholder",
        "double_bos",
    ]
    assert accept_hard_stops(draft, ()) == draft

"""Every setting has one FieldSpec that agrees with pydantic."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from pydantic import BaseModel, Field

from toolkit.config import Config
from toolkit.settings import field_spec as specs
from toolkit.settings.draft import default_draft, get_setting
from toolkit.settings.field_spec import field_specs_by_path, list_field_specs


def test_every_setting_is_listed_once_in_schema_order() -> None:
    paths = [spec.path for spec in list_field_specs()]
    assert len(paths) == len(set(paths)) >= 56
    assert paths[0] == "save_dir"
    assert paths.index("lora.r") < paths.index("training.training_args.bf16") < paths.index("inference.top_k")


def test_defaults_are_what_a_config_holds() -> None:
    draft = default_draft()
    assert all(spec.default == get_setting(draft, spec.path) for spec in list_field_specs())
    assert all(spec.description for spec in list_field_specs())


@pytest.mark.parametrize(
    ("path", "kind", "optional"),
    [
        ("lora.r", "whole", True),
        ("lora.lora_dropout", "number", True),
        ("lora.target_modules", "words", True),
        ("lora.layers_to_transform", "indexes", True),
        ("data.file_type", "choice", False),
        ("data.path", "text", False),
        ("data.train_size", "size", True),
        ("data.train_test_split_seed", "whole", False),
        ("model.quantize", "flag", True),
        ("model.device_map", "text", True),
    ],
)
def test_kinds(path: str, kind: str, optional: bool) -> None:
    spec = field_specs_by_path()[path]
    assert (spec.kind, spec.optional) == (kind, optional)


def test_limits_in_words() -> None:
    assert field_specs_by_path()["lora.r"].bounds.words() == "from 1 to 4096"
    assert field_specs_by_path()["lora.lora_dropout"].bounds.words() == "from 0, below 1"
    assert field_specs_by_path()["training.training_args.learning_rate"].bounds.words() == "above 0, to 10"
    assert field_specs_by_path()["inference.top_k"].bounds.words() == "from 0"
    assert field_specs_by_path()["data.prompt"].bounds.words() == ""
    assert field_specs_by_path()["data.file_type"].choices == ("json", "csv", "huggingface")


def test_a_field_type_without_a_kind_is_an_error() -> None:
    class Strange(BaseModel):
        odd: Optional[dict[str, Any]] = Field(None, description="x")

    with pytest.raises(TypeError, match="odd"):
        specs._build_field_spec("odd", Strange.model_fields["odd"])


def test_section_paths_are_the_parents_of_settings() -> None:
    sections = {name for name, value in Config() if isinstance(value, BaseModel)}
    assert specs.section_paths() >= sections >= {"data", "model", "lora", "training", "inference", "ablation"}
    assert "model.bitsandbytes" in specs.section_paths()
    assert "lora.r" not in specs.section_paths()

"""docs/reference.md says what the schema, the command line and the environment variables are now."""

from __future__ import annotations

import re

from docs.generate_reference import REFERENCE_PAGE, ROOT, generate_reference
from toolkit.settings.field_spec import list_field_specs


def test_the_page_is_what_the_script_writes() -> None:
    page = REFERENCE_PAGE.read_text(encoding="utf-8")
    assert page == generate_reference(page), "run `python docs/generate_reference.py`"


def test_every_setting_is_listed_and_added_ones_are_marked() -> None:
    page = REFERENCE_PAGE.read_text(encoding="utf-8")
    for spec in list_field_specs():
        assert page.count(f"| `{spec.path}`") == 1, spec.path
    assert "| `autopilot` + |" in page
    assert "| `training.sft_args.completion_only_loss` + |" in page
    assert "| `lora.r` |" in page


def test_every_environment_variable_of_the_code_is_explained() -> None:
    page = REFERENCE_PAGE.read_text(encoding="utf-8")
    code = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "toolkit").rglob("*.py")))
    used = set(re.findall(r"\b(?:FTK|FINETUNING_TOOLKIT)_[A-Z_]+\b", code))
    listed = set(re.findall(r"^\| `((?:FTK|FINETUNING_TOOLKIT)_[A-Z_]+)`", page, re.MULTILINE))
    assert used == listed

"""Exports are read by transformers 4.57, in a process of its own, and answer there as they do here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_families import save_tiny_model
from tests.fakes import answer_elsewhere
from tests.fakes.engine_runs import write_adapter
from tests.fakes.older_transformers import answer_with, install_older_transformers
from tests.fakes.training import draft, make_run
from tests.worker.test_export import MERGED, build
from toolkit.export.export_state import export_folder
from toolkit.export.prompt_contract import read_reference_contract
from toolkit.runs.run_dir import read_run_config

pytestmark = pytest.mark.worker
FAMILIES = {
    "llama": "a base frequency of its own, and a list of special tokens",
    "qwen2": "scaled rotary positions, tied embeddings",
    "gemma3_text": "two base frequencies",
    "gpt_neox": "other names for frequency and rotated share",
    "stablelm": "a rotated share",
    "gpt2": "no rotary positions, transposed weights",
    "qwen3_moe": "another name for the number of experts, which are stored one by one",
}
PROMPTS = 3


def make_exports(family: str, place: Path) -> list[dict[str, Any]]:
    """Return what to ask of a merged export and, except for experts, of an adapter on its base."""
    from toolkit.worker.models.older_readers import write_both_config_forms, write_old_tokenizer_form

    base = save_tiny_model(family, place / "model")
    # a base from the hub has the older names: without them it is the base that the other program reads wrongly
    write_both_config_forms(base)
    write_old_tokenizer_form(base)
    settings = draft(place / "save", base)
    settings["model"]["device_map"] = "cpu"
    run = make_run(settings)
    write_adapter(run, read_run_config(run), 1)
    for form in ("adapter", MERGED):
        build(run, form)
    contract = read_reference_contract(run)
    assert contract is not None
    texts = [golden.text for golden in contract.golden[:PROMPTS]]
    asked = [{"folder": str(export_folder(run, MERGED)), "base": None, "texts": texts}]
    if not family.endswith("_moe"):  # PEFT stores an adapter of experts by names that only transformers 5 has
        asked.append({"folder": str(export_folder(run, "adapter")), "base": str(base), "texts": texts})
    return asked


def test_exports_answer_the_same_in_transformers_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    older = install_older_transformers()
    asked = [export for family in FAMILIES for export in make_exports(family, tmp_path / family)]
    told = answer_with(older, asked)
    assert told["version"].startswith("4.57.")
    for export, there in zip(asked, told["answers"], strict=True):
        here = answer_elsewhere.answer(**export)
        place = Path(export["folder"]).relative_to(tmp_path)
        assert "error" not in there, (place, there["error"])
        assert there["ids"] == here["ids"], place
        assert there["answers"] == here["answers"], place
        pairs = zip(here["logprobs"], there["logprobs"], strict=True)
        drift = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
        assert drift < 1e-3, place

"""The short form of `benchmarks/families.py`, and what the benchmark does with runs that fail or are stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tiny_families import FAMILIES
from tests.fakes.training import draft, make_run, train_here

pytestmark = pytest.mark.worker
CHECKS = ("ids and labels", "first gradients", "PEFT = engine")
SHORT: dict[str, tuple[str, ...]] = {
    "qwen2": (),
    "gemma3_text": ("resume",),
    "gpt2": ("merged",),
    "phi3": ("merged",),
    "falcon": ("merged",),
    "mpt": ("resume",),
    "qwen3_moe": ("resume",),
    "t5": (),
}
"""Families, and what of them is checked besides CHECKS: what no other test holds of such models."""
STEPS = 6


@pytest.mark.parametrize("family", list(SHORT))
def test_a_family_equals_the_plain_libraries(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.families import check_family

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    cells = check_family(family, tmp_path, STEPS, CHECKS + SHORT[family])
    expected = "refused: " if FAMILIES[family].refused else "yes"
    assert all(cell.startswith(expected) for cell in cells.values()), cells


def test_modules_that_the_loss_does_not_reach_are_named(save_dir: Path) -> None:
    import safetensors.torch

    from benchmarks.tiny_families import save_tiny_model

    settings = draft(save_dir, save_tiny_model("mamba", save_dir.parent / "model"), max_steps=2)
    settings["data"]["prompt"] = "{question}\n"
    settings["lora"]["target_modules"] = ["in_proj", "x_proj", "dt_proj"]
    run = make_run(settings)
    code, events = train_here(run)
    assert code == 0, events[-1]
    (message,) = (e["message"] for e in events if e["kind"] == "warning" and "do not reach" in e["message"])
    assert "the adapters on dt_proj, so" in message and "Add dt_proj to exclude_modules" in message
    weights = safetensors.torch.load_file(run.adapter_dir / "adapter_model.safetensors")
    trained = {name.split(".")[-3] for name, weight in weights.items() if "lora_B" in name and weight.any()}
    assert trained == {"in_proj", "x_proj"}


def test_a_run_that_a_signal_stopped_makes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import families, family_run

    monkeypatch.setattr(family_run, "train_here", lambda run: (0, [{"kind": "stopped", "step": 3}]))
    with pytest.raises(family_run.RunInterrupted, match="gpt2 was stopped at step 3"):
        families.check_family("gpt2", tmp_path, STEPS, CHECKS)


def test_an_error_in_a_check_is_a_cell_and_the_table_says_it_once() -> None:
    from benchmarks import families

    yes = dict.fromkeys(families.CHECKS, "yes")
    refused = {name: {**yes, "GGUF": f"refused: not for '{name}' models"} for name in ("gpt2", "opt")}
    text = families.format_table({**refused, "mpt": {**yes, "resume": "other weights"}})
    assert "| opt | yes | yes | yes | yes | yes | yes | yes | refused [1] |" in text
    assert "| mpt | yes | yes | NO [2] |" in text
    assert text.endswith("[1] refused: not for 'FAMILY' models\n[2] other weights")

"""Situations of the catalog that need a model: the exact message, and the files that must not change.

Invalid adapters (row 61) are in `tests/worker/models/test_adapter_switch.py`; the golden file is shared.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fakes import golden
from tests.fakes.training import draft, make_run, rows, train_here
from tests.worker.models.test_adapter_switch import HOSTILE, SITUATIONS
from toolkit.config import Config
from toolkit.errors import ToolkitError

pytestmark = pytest.mark.worker

LENGTHS = {"every prompt is longer than the limit": ("word " * 60 + "{question}", "{answer}"),
           "answers are cut off by the limit": ("{question}\n", "{answer}" + " and so on" * 40)}  # fmt: skip
LINKS = ("link in a model folder", "folder of code behind a link")


@pytest.mark.parametrize("name", LENGTHS)
def test_rows_beyond_the_length_limit_are_explained(name: str, tiny_plain_model: Path, save_dir: Path) -> None:
    """Row 55: the run fails before its first step and names the setting to raise."""
    settings = draft(save_dir, tiny_plain_model)
    settings["data"]["prompt"], settings["data"]["prompt_stub"] = LENGTHS[name]
    run = make_run(settings, rows(24))
    before = golden.state_of(run.data_dir)
    code, events = train_here(run)
    assert (code, events[-1]["kind"]) == (1, "failed")
    assert {file: golden.state_of(run.data_dir).get(file) for file in before} == before
    assert not run.adapter_dir.exists()
    told = [f"{events[-1]['message']} {events[-1]['hint']}"]
    golden.hold(SITUATIONS, name, {"row": 55, "outcome": "refused", "told": told})


@pytest.mark.parametrize("name", LINKS)
def test_symbolic_links_in_model_folders_are_rejected(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """Row 57: a model folder must not contain links that lead out of it."""
    from toolkit.worker.models.load import load_base_model

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "modeling.py").write_text("raise SystemExit")
    if name == LINKS[0]:
        weights = (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
        (folder / "model.safetensors").symlink_to(weights)
    else:
        (folder / "extra").symlink_to(tmp_path / "code")
    before = golden.state_of(tmp_path)
    with pytest.raises(ToolkitError) as caught:
        load_base_model(Config.model_validate({"model": {"hf_model_ckpt": str(folder)}}))
    assert golden.state_of(tmp_path) == before
    told = [golden.without(str(caught.value), tmp_path)]
    golden.hold(SITUATIONS, name, {"row": 57, "outcome": "refused", "told": told})


def test_the_golden_file_covers_all_situations() -> None:
    golden.check(SITUATIONS, [*LENGTHS, *LINKS, *(f"adapter: {name}" for name in HOSTILE)])

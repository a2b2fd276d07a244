"""From a finished run to its evaluation and its export by clicks, and a comparison with its checkpoints."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.browser.server import Server
from tests.fakes.engine_runs import write_adapter, write_checkpoint
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.evaluation.statistics.verdict import VERDICT_SENTENCES
from toolkit.export.export_state import read_export_state
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run

SECOND = 1000
ROWS = 12


@pytest.fixture
def run(server: Server, tiny_model: Path, tmp_path: Path) -> RunDir:
    """A finished run with a random adapter on a tiny model."""
    source = tmp_path / "given.csv"
    source.write_text("q,a\n" + "".join(f"order {i},{i} lamps\n" for i in range(ROWS + 4)))
    config = Config.model_validate(
        {
            "save_dir": str(server.save_dir),
            "data": {"file_type": "csv", "path": str(source), "prompt": "{q}", "prompt_stub": "{a}", "train_size": 4,
                     "test_size": ROWS},
            "model": {"hf_model_ckpt": str(tiny_model), "device_map": "cpu"},
            "lora": {"r": 4, "lora_alpha": 8},
        }
    )  # fmt: skip
    made = create_run(config, open_table(config.data, server.save_dir), name="lamps")
    made.claim_path.touch()  # at once: the app starts what is queued
    with EventWriter(made.events_path) as events:
        events.append("started", pid=1)
        events.append("finished", step=1, epoch=1.0)
    write_adapter(made, config, seed=1)
    write_checkpoint(made, config, step=1, seed=7)
    return made


def downloaded(page: Page, button: Locator) -> Path:
    """Return the file that the button downloads. Retry, because a rerun may replace it during the click."""
    for _ in range(6):
        try:
            with page.expect_download(timeout=10 * SECOND) as waiting:
                button.click()
            return Path(waiting.value.path())
        except PlaywrightTimeout:
            continue
    raise AssertionError("the download did not start")


def test_one_click_from_the_run_to_the_verdict(page: Page, server: Server, run: RunDir, tmp_path: Path) -> None:
    page.goto(f"{server.url}/runs?run={run.id}")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    begun = page.get_by_text(re.compile("elapsed|Counted over")).first
    expect(begun).to_be_visible(timeout=90 * SECOND)
    expect(page.get_by_role("heading", name="Evaluate", exact=True)).to_be_visible()
    page.reload()
    verdict = page.get_by_role("heading").filter(
        has_text=re.compile("|".join(text.split("{}")[0] for text in VERDICT_SENTENCES.values()))
    )
    expect(verdict).to_be_visible(timeout=150 * SECOND)
    expect(page.get_by_text("Unchanged (wrong)").first).to_be_visible(timeout=60 * SECOND)
    expect(page.get_by_role("button", name="Download JSON")).to_be_visible(timeout=60 * SECOND)
    rows = json.loads(downloaded(page, page.get_by_role("button", name="Download JSON")).read_text())
    assert len(rows) == ROWS
    assert {row["expected"] for row in rows} <= {f"{i} lamps" for i in range(ROWS + 4)}
    assert all(row["answer (Adapter)"] != row["answer (Base model)"] for row in rows)

    page.get_by_role("button", name="Export", exact=True).click()
    # the adapter can be downloaded and is exported at once; the other forms wait for a click
    expect(page.get_by_role("button", name=re.compile(r"Download \("))).to_be_visible(timeout=180 * SECOND)
    expect(page.get_by_text("Verified: same")).to_be_visible(timeout=180 * SECOND)
    assert read_export_state(run, "adapter").state == "passed"
    with zipfile.ZipFile(downloaded(page, page.get_by_role("button", name=re.compile(r"Download \(")))) as archive:
        assert {"adapter_model.safetensors", "contract.json"} <= set(archive.namelist())
        figures = archive.read("README.md").decode()
    assert "| Exact match |" in figures, "the card tells what the evaluation found"


def test_a_checkpoint_answers_next_to_the_adapter_and_survives_a_refresh(
    page: Page, server: Server, run: RunDir
) -> None:
    page.goto(f"{server.url}/playground?run={run.id}&beside=base,{run.id}@1")
    page.get_by_role("button", name="Try a test row").click()
    expect(page.get_by_text("tokens/s")).to_have_count(3, timeout=150 * SECOND)
    for title in ("This run", "Base model", "Step 1 of this run"):
        expect(page.get_by_text(title, exact=True).first).to_be_visible()
    page.reload()
    expect(page.get_by_test_id("stMultiSelect")).to_contain_text("Step 1 of this run", timeout=60 * SECOND)
    assert f"{run.id}@1" in page.url.replace("%40", "@")

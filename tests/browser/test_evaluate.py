"""From a finished run to "is it better?" by clicks alone: a real evaluation, a refresh, the verdict, the file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.server import Server
from tests.fakes.engine_runs import write_adapter
from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.evaluation.verdict import OPENINGS
from toolkit.runs.events import EventWriter
from toolkit.runs.rundir import RunDir, create_run

SECOND = 1000
ROWS = 12


@pytest.fixture
def run(server: Server, tiny_model: Path, tmp_path: Path) -> RunDir:
    """A run that is over, with a random adapter on a tiny model."""
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
    write_adapter(made, config, seed=1)
    made.claim_path.touch()
    with EventWriter(made.events_path) as events:
        events.append("started", pid=1)
        events.append("finished", step=1, epoch=1.0)
    return made


def test_one_click_from_the_run_to_the_verdict(page: Page, server: Server, run: RunDir, tmp_path: Path) -> None:
    page.goto(f"{server.url}/runs?run={run.id}")
    page.get_by_role("button", name="Is it better?").click()
    begun = page.get_by_text(re.compile("elapsed|Counted over")).first
    expect(begun).to_be_visible(timeout=90 * SECOND)
    expect(page.get_by_role("heading", name="Evaluate", exact=True)).to_be_visible()
    page.reload()
    verdict = page.get_by_role("heading").filter(has_text=re.compile("|".join(OPENINGS.values())))
    expect(verdict).to_be_visible(timeout=150 * SECOND)
    expect(page.get_by_text("Both wrong").first).to_be_visible(timeout=60 * SECOND)
    expect(page.get_by_role("button", name="Download JSON")).to_be_visible(timeout=60 * SECOND)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download JSON").click()
    rows = json.loads(Path(waiting.value.path()).read_text())
    assert len(rows) == ROWS
    assert {row["expected"] for row in rows} <= {f"{i} lamps" for i in range(ROWS + 4)}
    assert all(row["answer (Adapter)"] != row["answer (Base model)"] for row in rows)

"""A workspace for page tests: a folder whose training slot is taken, and runs made from hand-written events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.system import machine as machines
from toolkit.system.durable import commit_dir
from toolkit.system.locks import describe_self, try_lock, write_lock_holder
from toolkit.ui.frame import page as page_module

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace in which started runs stay queued, because the training slot is taken."""
    monkeypatch.setenv("FINETUNING_TOOLKIT_SAVE_DIR", str(tmp_path))
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FTK_WARM", "off")  # a process that imports torch for each page would make these tests slow
    known = machines.Machine(cpu_count=2, memory_bytes=8_000_000_000)
    (tmp_path / "machine.json").write_text(
        json.dumps({"schema": 1, "key": machines._machine_key(), "machine": asdict(known)})
    )
    (tmp_path / "runs").mkdir()
    slot = try_lock(tmp_path / "runs" / "slot.lock")
    assert slot is not None
    write_lock_holder(slot, describe_self(1, run="another"))
    yield tmp_path
    page_module.get_supervisor(str(tmp_path)).stop()
    os.close(slot)


class Stage:
    """Opens pages of the real app on a workspace, and creates runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def page(self, name: str, run: RunDir | None = None) -> AppTest:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        if run is not None:
            app.query_params["run"] = run.id
        return self.checked(app.run().switch_page(f"pages/{name}.py").run())

    def checked(self, app: AppTest) -> AppTest:
        assert not app.exception
        assert not [error.value for error in app.error if "inside the app" in error.value]
        return app

    def run(self, *events: tuple[str, dict[str, Any]], name: str = "", **more: Any) -> RunDir:
        """Create a run with these events; without any it is queued."""
        config = Config.model_validate({**more.pop("config", {}), "save_dir": str(self.folder)})
        run = create_run(config, open_table(config.data, self.folder), name=name, **more)
        if events:
            run.claim_path.touch()
            with EventWriter(run.events_path) as writer:
                for kind, fields in events:
                    writer.append(kind, **fields)
        return run

    def finished(self, name: str, *, exact: float = 0.97, adapter: bool = True, **more: Any) -> RunDir:
        logs = [("log", {"step": step, "epoch": step / 32, "loss": 2 / step, "learning_rate": 1e-3, "grad_norm": 1.0,
                         "tokens_per_second": 4000.0, "memory_bytes": 5e8}) for step in range(1, 97)]  # fmt: skip
        run = self.run(
            ("started", {"pid": 1}),
            ("prepared", {"train_rows": 512, "test_rows": 128, "dropped": 3, "truncated_rows": 1}),
            ("plan", {"total_steps": 96, "epochs": 3}),
            ("phase", {"phase": "training"}),
            *logs,
            ("eval", {"step": 96, "eval_loss": 0.25}),
            ("scores", {"rows": 128, "exact_match": exact, "exact_match_base": 0.0}),
            ("finished", {"step": 96, "epoch": 3.0}),
            name=name, **more,
        )  # fmt: skip
        if adapter:
            staging = run.path / ".adapter"
            staging.mkdir()
            (staging / "adapter_model.safetensors").write_bytes(b"weights")
            (staging / "adapter_config.json").write_text("{}")
            (staging / "training_args.bin").write_bytes(b"never to be shared")
            commit_dir(staging, run.adapter_dir, {"step": 96})
        return run


@pytest.fixture
def stage(workspace: Path) -> Stage:
    return Stage(workspace)


def words(app: AppTest) -> str:
    """Return every text on the page without escapes."""
    kinds = (
        app.title, app.header, app.subheader, app.markdown, app.caption, app.error, app.warning, app.info, app.code,
        app.text,
    )  # fmt: skip
    shown = "\n".join(str(entry.value) for kind in kinds for entry in kind)
    return shown.replace("\\", "").replace("\u00a0", " ").replace(":gray[]", "")


def button(app: AppTest, label: str) -> Any:
    found = [entry for entry in app.button if entry.label == label]
    assert found, f"no button '{label}' among {[entry.label for entry in app.button]}"
    return found[0]

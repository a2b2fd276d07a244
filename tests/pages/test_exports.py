"""The export section of a finished run: the state on each card, read from the files."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.export.test_parity_certificate import contract, replay
from tests.pages.conftest import Stage, button, words
from toolkit.errors import RunError
from toolkit.export import adapter_archive
from toolkit.export.export_forms import EXPORT_FORMS, GGUF_FILE
from toolkit.export.export_state import certificate_path, commit_hash, export_folder, export_job
from toolkit.export.parity_certificate import certify_replay, write_certificate
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir
from toolkit.system import durable
from toolkit.system.background_job import StateFileReporter
from toolkit.system.durable import commit_dir
from toolkit.ui.runs import export_view


def made(run: RunDir, form: str, *, broken: bool) -> None:
    run.exports_dir.mkdir(exist_ok=True)
    (run.exports_dir / CONTRACT_FILE).write_text(contract().dump())
    staging = run.exports_dir / ".new"
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(b"weights")
    if form.startswith("gguf"):
        (staging / GGUF_FILE).write_bytes(b"w" * 100)
    commit_dir(staging, export_folder(run, form), {})
    found = replay({"answer_ids": (7, 9, 2), "answer": "<b>c</b>"} if broken else None)
    verdict = certify_replay(contract(), found, form=form, commit=commit_hash(export_folder(run, form)))
    write_certificate(certificate_path(run, form), verdict)


def test_each_card_shows_the_state_of_its_export(stage: Stage) -> None:
    run = stage.finished("done")
    app = stage.page("runs", run)
    assert words(app).count("Not exported") == len(EXPORT_FORMS)
    assert {entry.key for entry in app.button if str(entry.key).startswith("make_")} == {
        f"make_{form}" for form in EXPORT_FORMS
    }
    made(run, "merged-bf16", broken=False)
    made(run, "merged-fp16", broken=True)
    StateFileReporter(export_job(run, "adapter")).fail("The disk is full.", "Free space.")
    made(run, "gguf", broken=False)
    made(run, "gguf-q8", broken=True)
    text = words(stage.page("runs", run))
    assert "Verified: same" in text and "Verification failed: different" in text
    assert "greedy answers equal: 4 of 4" in text
    assert "'<b>c</b>' instead of 'b'" in text  # as text: `words` took the escapes off
    assert "The disk is full. Free space." in text.replace("]", "")
    assert "The smallest file that still answers the same: GGUF, 16 bits, 100 B (4 of 4 answers equal)." in text
    assert "pip install xllamacpp" in text and "GGUF files compared" in text
    assert "vllm serve" in text and "python -m toolkit serve" in text


def test_an_export_that_fails_is_explained(stage: Stage) -> None:
    run = stage.finished("done")
    app = stage.page("runs", run)
    (run.adapter_dir / "COMMIT.json").write_text(json.dumps({"schema": 1}))  # not what was committed
    app = stage.checked(app.button(key="make_adapter").click().run())
    deadline = time.monotonic() + 120
    while "Export failed" not in words(app) and time.monotonic() < deadline:
        app = stage.checked(app.run())
    assert "can't be trusted" in words(app)


def test_asking_for_an_export_starts_that_of_the_adapter_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(export_view, "start_export", lambda run, form, **_: started.append(form))
    run = stage.finished("done")
    app = stage.page("runs", run)
    assert started == [], "opening the page starts nothing"
    app = stage.checked(button(app, "Export").click().run())
    stage.checked(app.run())
    assert started == ["adapter"]
    made(run, "merged-bf16", broken=False)
    stage.checked(button(stage.page("runs", run), "Export").click().run())
    assert started == ["adapter"], "what is there already is not made again"


def test_a_download_is_there_at_once_and_starts_its_verification(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(export_view, "start_export", lambda run, form, **_: started.append(form))
    run = stage.finished("Orders, 4 epochs")
    (download,) = downloads(stage.page("runs", run))
    assert download.proto.label.startswith("Download (")
    export_view._verify_download(run, "adapter")
    assert started == ["adapter"]
    made(run, "merged-bf16", broken=False)
    made(run, "merged-fp16", broken=True)
    export_view._verify_download(run, "merged-bf16")
    assert started == ["adapter"], "what is verified is not made again"
    assert len(downloads(stage.page("runs", run))) == 2, "a broken export can't be downloaded"


def test_a_page_reads_no_weights_and_a_download_verifies_them(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.finished("Orders, 4 epochs")
    made(run, "merged-bf16", broken=False)
    with monkeypatch.context() as drawn:
        drawn.setattr(durable, "_hash_file", lambda path: pytest.fail(f"the page has read {path}"))
        assert len(downloads(stage.page("runs", run))) == 2
    folder = export_folder(run, "merged-bf16")
    assert adapter_archive.zip_export(folder)
    next(path for path in folder.iterdir() if path.name != durable.COMMIT_NAME).write_text("changed")
    with pytest.raises(RunError, match="is damaged"):
        adapter_archive.zip_export(folder)


def test_what_other_programs_call_the_model_follows_its_name(stage: Stage) -> None:
    run = stage.finished("Orders, 4 epochs")
    made(run, "adapter", broken=False)
    text = words(stage.page("runs", run))
    assert "--lora-modules orders-4-epochs=" in text


def downloads(app: AppTest) -> list[Any]:
    """Return the page's download buttons of exports; AppTest knows no class for them."""
    found = [block for block in app.get("download_button") if str(block.proto.label).startswith("Download (")]
    return list(found)


def test_a_run_without_an_adapter_has_no_exports(stage: Stage) -> None:
    run = stage.finished("none", adapter=False)
    assert "golden prompts" not in words(stage.page("runs", run))

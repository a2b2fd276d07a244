"""A push to a local stand-in for the Hub: what is published, what is not, and a reason for every refusal."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.export.test_parity_certificate import contract, replay
from tests.fakes.hub import FakeHub, fake_hub
from tests.fakes.training import draft, make_run
from toolkit.errors import RunError
from toolkit.export.export_state import certificate_path, commit_hash, export_folder
from toolkit.export.hub_push import HubPush, read_hub_state, start_push
from toolkit.export.parity_certificate import certify_replay, write_certificate
from toolkit.export.prompt_contract import CONTRACT_FILE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import commit_dir

pytestmark = pytest.mark.worker
FORM = "merged-bf16"


@pytest.fixture
def run(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with an export that passed."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(save_dir.parent / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    made = make_run(draft(save_dir, Path("/a/model of mine")))
    made.exports_dir.mkdir()
    staging = made.exports_dir / ".new"
    staging.mkdir()
    (staging / CONTRACT_FILE).write_text(contract().dump())
    (staging / "model.safetensors").write_bytes(b"weights")
    (staging / "finetuning-toolkit.yml").write_text(f"save_dir: {save_dir}")
    commit_dir(staging, export_folder(made, FORM), {})
    verdict = certify_replay(contract(), replay(), form=FORM, commit=commit_hash(export_folder(made, FORM)))
    write_certificate(certificate_path(made, FORM), verdict)
    return made


def test_a_push_is_running_when_its_start_returns(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_hub() as hub:
        ask(monkeypatch, hub)
        process = start_push(run, HubPush(FORM, "me/model"))
        assert read_hub_state(run).state == "running"
        with pytest.raises(RunError, match="already running"):
            start_push(run, HubPush(FORM, "me/other"))
        assert process.wait(120) == 0
        assert [one["name"] for one in hub.created] == ["model"]


def push(run: RunDir, asked: HubPush) -> tuple[str, str]:
    start_push(run, asked).wait(120)
    state = read_hub_state(run)
    return state.state, f"{state.message} {state.hint}"


def ask(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def test_a_push_contains_the_card_and_no_rows_paths_or_token(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_hub() as hub:
        ask(monkeypatch, hub)
        state, words = push(run, HubPush(FORM, "me/model"))
        assert (state, hub.url in words) == ("done", True), words
        assert hub.created[0]["visibility"] == "private" and hub.tokens == {"Bearer hf_secret"}
        assert set(hub.files) == {"README.md", CONTRACT_FILE, "model.safetensors"}
        assert json.loads(hub.files[CONTRACT_FILE])["golden"] == []
        assert b"place = 'me/model'" in hub.files["README.md"]
        for place in (str(run.save_dir), "/a/model"):
            assert not [name for name, content in hub.files.items() if place.encode() in content], place
        assert b"`model of mine`" in hub.files["README.md"]
        assert push(run, HubPush(FORM, "me/model", golden=True))[0] == "done"
        assert len(json.loads(hub.files[CONTRACT_FILE])["golden"]) == 4
    for path in (*run.exports_dir.rglob("*"), run.config_path):
        assert not path.is_file() or b"hf_secret" not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "folder/inside.txt", ".."])
def test_a_zip_with_paths_in_it_is_refused(run: RunDir, tmp_path: Path, name: str) -> None:
    from toolkit.worker.push import gather_published_files

    staging = run.exports_dir / ".new"
    staging.mkdir()
    with zipfile.ZipFile(staging / "adapter.zip", "w") as archive:
        archive.writestr(CONTRACT_FILE, contract().dump())
        archive.writestr(name, "content")
    commit_dir(staging, export_folder(run, "adapter"), {})
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RunError, match="not a plain file name"):
        gather_published_files(run, HubPush("adapter", "me/model"), target)
    assert not list(target.iterdir()), "nothing is unpacked before every name is checked"


def test_a_push_that_fails_gives_its_reason(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="not a valid repository name"):
        start_push(run, HubPush(FORM, "https://elsewhere"))
    with pytest.raises(RunError, match="is not verified"):
        start_push(run, HubPush("adapter", "me/model"))
    state, words = push(run, HubPush(FORM, "me/model"))
    assert state == "failed" and "no login" in words and "HF_TOKEN" in words
    with fake_hub() as hub:
        ask(monkeypatch, hub)
        hub.status = 403
        assert "does not let this login write" in push(run, HubPush(FORM, "me/model"))[1]
    assert "can't be reached" in push(run, HubPush(FORM, "me/model"))[1]  # the hub has gone
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in push(run, HubPush(FORM, "me/model"))[1]

"""`data` and `check`: what would be trained on, as text and as JSON, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import call
from toolkit.cli import dataset_commands, dataset_report
from toolkit.errors import Problem
from toolkit.system.machine import Machine

Captured = pytest.CaptureFixture[str]
KEYS = {"refused", "rows", "columns", "notices", "suggestion", "usable_rows", "skipped_rows", "problems", "findings",
        "examples"}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; nothing asks the background worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    for module in (dataset_commands, dataset_report):
        monkeypatch.setattr(module, "find_hard_stops", lambda *_: [])
    return tmp_path


def report(monkeypatch: pytest.MonkeyPatch, capsys: Captured, *words: str, code: int = 0) -> dict[str, Any]:
    assert call(monkeypatch, "data", *words, "--json", "--save-dir", "out") == code
    found = dict(json.loads(capsys.readouterr().out))
    assert set(found) == KEYS
    return found


def test_a_file_is_reported_as_the_page_reads_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    rows = [f"{i},Where is number {i}?,{'' if i == 3 else f'In aisle {i}.'},2026-01-02" for i in range(12)]
    rows.append(rows[5].replace("5,", "12,", 1))
    (folder / "mine.csv").write_text("id,prompt,answer,date\n" + "\n".join(rows))
    found = report(monkeypatch, capsys, "mine.csv")
    assert (found["rows"], found["usable_rows"], found["skipped_rows"]) == (13, 12, 1)
    assert found["columns"] == ["id", "prompt", "answer", "date"]
    suggestion = found["suggestion"]
    assert (suggestion["kind"], suggestion["prompt"], suggestion["completion"]) == ("pair", "{prompt}", "{answer}")
    findings = {finding["name"]: finding for finding in found["findings"]}
    assert findings["duplicate"]["fixes"][0]["remaining_rows"] == 12
    assert len(found["examples"]) == 3
    assert found["examples"][0] == [
        {"role": "user", "content": "Where is number 0?", "learned": False},
        {"role": "assistant", "content": "In aisle 0.", "learned": True},
    ]
    assert (found["refused"], found["problems"]) == (None, [])


def test_conversations_and_open_questions_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "weight": 0},
             {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]  # fmt: skip
    (folder / "chat.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 4)
    found = report(monkeypatch, capsys, "chat.jsonl")
    assert (found["suggestion"]["kind"], found["suggestion"]["messages"]) == ("conversations", "messages")
    assert [message["learned"] for message in found["examples"][0]] == [False, False, False, True]
    (folder / "pair.csv").write_text("en,de\n" + "".join(f"good day {i},guten Tag {i}\n" for i in range(9)))
    found = report(monkeypatch, capsys, "pair.csv")
    assert found["suggestion"]["kind"] == "ask"
    assert {"prompt": "{en}", "completion": "{de}"} in found["suggestion"]["candidates"]
    assert found["problems"]


def test_a_refused_file_names_its_offers(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    (folder / "old.csv").write_bytes("q;a\ncafé;1\nx;2\ny;3\n".encode("cp1252"))
    found = report(monkeypatch, capsys, "old.csv", code=1)
    assert found["refused"]["message"]
    assert found["refused"]["offers"]
    assert call(monkeypatch, "data", "old.csv", "--save-dir", "out") == 1
    assert "error: " in capsys.readouterr().err


def test_check_tells_rows_forecast_and_what_blocks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    machine = Machine(cpu_count=2, memory_bytes=8 << 30, cuda=False, gpus=(), bf16_gpu=False, bitsandbytes=False)
    monkeypatch.setattr(dataset_commands, "probe_machine", lambda _: machine)
    (folder / "rows.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(10)))
    config = folder / "config.yml"
    config.write_text('save_dir: out\ndata:\n  path: rows.csv\n  prompt: "{question}"\n  prompt_stub: "{answer}"\n')
    assert call(monkeypatch, "check", "config.yml") == 0
    out = capsys.readouterr().out
    assert "10 rows (8 for training, 2 for testing, 0 skipped)" in out
    assert "forecast: " in out
    assert "A run can start." in out
    monkeypatch.setattr(dataset_commands, "find_hard_stops", lambda *_: [Problem("data.prompt", "It is blocked.")])
    assert call(monkeypatch, "check", "config.yml") == 1
    assert "blocking: " in capsys.readouterr().err
    config.write_text(config.read_text().replace("{answer}", "{anser}"))
    assert call(monkeypatch, "check", "config.yml") == 1
    told = capsys.readouterr()
    assert "Did you mean {answer}?" in told.err
    assert "A run can't start." in told.out
    config.write_text("data: [")
    assert call(monkeypatch, "check", "config.yml") == 1

"""The machine is probed once, in another process, and its result is read from a file afterward."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RunError
from toolkit.system import machine as module
from toolkit.system.machine import Gpu, Machine, probe_machine, probe_machine_in_background, read_known_machine

CPU = {"cpu_count": 2, "memory_bytes": 16_000_000_000, "cuda": False, "gpus": [], "bitsandbytes": True}
H200 = {"name": "NVIDIA H200", "memory_bytes": 141_000_000_000, "capability": [9, 0]}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The argument lists of all probes; each reports a machine without a GPU."""
    started: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        started.append(argv)
        return subprocess.CompletedProcess(argv, 0, b"a warning\n" + json.dumps(CPU).encode() + b"\n", b"")

    monkeypatch.setattr(module.subprocess, "run", run)
    return started


def test_the_probe_runs_once_and_its_result_is_read_afterward(
    tmp_path: Path, probes: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_known_machine(tmp_path) is None
    found = probe_machine(tmp_path / "new")
    assert found == Machine(2, 16_000_000_000, bitsandbytes=True)
    assert probe_machine(tmp_path / "new") == found == read_known_machine(tmp_path / "new")
    assert [argv[1:] for argv in probes] == [["-m", "toolkit.worker.probe"]]
    monkeypatch.setattr(module, "boot_id", lambda: "started again")
    assert read_known_machine(tmp_path / "new") is None


def test_concurrent_callers_start_one_probe(tmp_path: Path, probes: list[list[str]]) -> None:
    for _ in range(5):
        probe_machine_in_background(tmp_path)
    for thread in threading.enumerate():
        if thread.name == "machine probe":
            thread.join(10)
    assert read_known_machine(tmp_path) is not None
    assert len(probes) == 1
    began = time.monotonic()
    probe_machine_in_background(tmp_path)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("content", ["", "[]", '{"key": []}', '{"key": [], "machine": {}}'])
def test_a_damaged_file_causes_a_new_probe(tmp_path: Path, probes: list[list[str]], content: str) -> None:
    (tmp_path / "machine.json").write_text(content)
    assert read_known_machine(tmp_path) is None
    assert probe_machine(tmp_path).cpu_count == 2


@pytest.mark.parametrize(
    "trouble",
    [
        subprocess.CalledProcessError(1, "probe", stderr=b"Traceback\nModuleNotFoundError: No module named 'torch'"),
        subprocess.TimeoutExpired("probe", 1),
        OSError("no such interpreter"),
    ],
)
def test_a_failed_probe_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(RunError) as error:
        probe_machine(tmp_path)
    assert "probe" in error.value.hint
    module._probe_quietly(tmp_path)
    assert read_known_machine(tmp_path) is None


@pytest.mark.parametrize("stdout", [b"", b"words\n", b"{}\n", b'{"cpu_count": 1, "memory_bytes": 1, "gpus": [{}]}\n'])
def test_unexpected_output_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdout: bytes) -> None:
    done = subprocess.CompletedProcess([], 0, stdout, b"")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RunError, match="Examining this machine failed"):
        probe_machine(tmp_path)


def test_the_summary_names_the_gpus() -> None:
    gpu = Gpu("NVIDIA H200", 141_000_000_000, (9, 0))
    body = {**CPU, "cuda": True, "gpus": [H200, H200], "bf16_gpu": True, "tf32": True}
    found = module._MACHINE.validate_python(body)
    assert found.gpus == (gpu, gpu)
    assert found.summary == "2 x NVIDIA H200 (131.3 GiB), 2 cores"
    assert Machine(1, 16_000_000_000).summary == "1 core, 14.9 GiB"

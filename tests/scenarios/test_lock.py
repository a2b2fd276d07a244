"""The lock of all packages: what pip reports becomes entries with hashes, and a lock that does not fit is found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolkit.system.paths import PROJECT_ROOT

PLACE = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
REQUIREMENTS = "# a comment\nA-b>=1.2,<2\nc==3  # another\n"


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_lock", PROJECT_ROOT / ".ci" / "make_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(**versions: str) -> dict[str, Any]:
    install = [
        {
            "metadata": {"name": name, "version": version},
            "download_info": {"archive_info": {"hashes": {"sha256": "0" * 64}}},
        }
        for name, version in versions.items()
    ]
    return {"environment": PLACE, "install": install}


def test_a_lock_that_was_made_meets_the_requirements(lock: ModuleType) -> None:
    text = lock.format_lock(report(c="3", a_b="1.9+cpu", z="1"))
    assert text.index("a_b==1.9+cpu") < text.index("c==3") and text.count("--hash=sha256:") == 3
    assert lock.find_mismatches(text, REQUIREMENTS) == []


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"a_b": "2.0", "c": "3"}, "A-b>=1.2,<2: the lock has 2.0"),
        ({"a_b": "1.2"}, "c==3: the lock has no such package"),
    ],
)
def test_a_lock_that_does_not_meet_the_requirements_is_found(
    lock: ModuleType, versions: dict[str, str], says: str
) -> None:
    assert lock.find_mismatches(lock.format_lock(report(**versions)), REQUIREMENTS) == [says]


def test_an_entry_without_a_hash_is_found(lock: ModuleType) -> None:
    (problem,) = lock.find_mismatches(lock.format_lock(report(a_b="1.2", c="3")) + "d==1\n", REQUIREMENTS)
    assert problem == "not a package with its hash: d==1"


def test_what_is_missing_is_told_in_words(
    lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(more: list[str]) -> dict[str, Any]:
        raise subprocess.CalledProcessError(2, more)

    monkeypatch.setattr(lock, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(lock, "ask_pip", fail)
    for given, says in (("--check", "There is no requirements.lock yet"), ("--index-url=x", "pip ended with 2")):
        monkeypatch.setattr(sys, "argv", ["make_lock.py", given])
        assert lock.main() == 1
        assert says in capsys.readouterr().out
    assert not lock.LOCK.exists()


def test_the_lock_in_the_project_meets_the_requirements(lock: ModuleType) -> None:
    if lock.LOCK.exists():  # it fits one platform only, and so is made where it is installed
        found = lock.find_mismatches(
            lock.LOCK.read_text(encoding="utf-8"), lock.REQUIREMENTS.read_text(encoding="utf-8")
        )
        assert found == []

"""The project as an installed package: what the wheel holds, and that it works in a folder without a clone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

from toolkit.system.paths import PROJECT_ROOT

pytestmark = pytest.mark.worker

MAX_WHEEL_BYTES = 12_000_000
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(argv, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder)
    return folder


def run_installed(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "toolkit", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_wheel_is_small_and_brings_the_app_along(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    pages = {f"toolkit/_app/pages/{page.name}" for page in PROJECT_ROOT.glob("pages/*.py")}
    assert len(pages) == 6
    assert pages | {"toolkit/_app/app.py", "toolkit/_app/.streamlit/config.toml"} <= names
    assert {"toolkit/assets/orders.csv", "toolkit/assets/demo-model/model.safetensors"} <= names
    assert {"toolkit/presets/demo-cpu.yml", "toolkit/ui/static/theme.css"} <= names
    assert not [name for name in names if name.startswith(("app.py", "pages/", "tests/", "benchmarks/"))]


def test_the_command_line_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    listed = run_installed(installed, tmp_path, "presets")
    assert listed.returncode == 0, listed.stderr
    assert "demo-cpu.yml" in listed.stdout
    assert run_installed(installed, tmp_path, "list").returncode == 0


def test_the_app_answers_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-P", "-m", "toolkit", "app", "--port", str(port)]
    quiet = {"STREAMLIT_SERVER_HEADLESS": "true", "FTK_SPARE": "0", "FTK_WARM": "0"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(installed)}
    server = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait(20)


def test_the_package_depends_on_what_requirements_txt_lists() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert project["dependencies"] == [line for line in lines if line and not line.startswith("#")]
    assert project["scripts"] == {"finetuning-toolkit": "toolkit.cli.main:main"}

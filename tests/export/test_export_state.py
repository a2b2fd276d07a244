"""What is said of an export without its main file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.run_fixtures import queue
from toolkit.export.export_forms import GGUF_FILE, GGUF_PROBLEM_FILE
from toolkit.export.export_state import export_folder, read_export_state
from toolkit.system.durable import commit_dir


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({GGUF_FILE: "weights"}, ""),
        ({GGUF_PROBLEM_FILE: "model.gguf can't be written: this is a 'gpt2' model.\n"}, "this is a 'gpt2' model."),
        ({"model.safetensors": "of an early version, which did not say why"}, "model.gguf was not made."),
    ],
)
@pytest.mark.parametrize("form", ["gguf", "gguf-q8"])
def test_an_export_without_its_main_file_says_why(save_dir: Path, form: str, files: dict[str, str], said: str) -> None:
    run = queue(save_dir)
    staging = run.exports_dir / ".new"
    staging.mkdir(parents=True)
    for name, content in files.items():
        (staging / name).write_text(content)
    commit_dir(staging, export_folder(run, form), {})
    state = read_export_state(run, form)
    assert state.state == "unchecked"
    assert state.without_main_file.endswith(said) and bool(said) is bool(state.without_main_file)
    merged = read_export_state(run, "merged-bf16")
    assert merged.without_main_file == ""

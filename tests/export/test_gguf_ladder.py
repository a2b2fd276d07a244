"""The GGUF files of a run side by side: which is the smallest that still answers the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.export.test_parity_certificate import contract, replay
from tests.fakes.run_fixtures import queue
from toolkit.cli.progress import print_ladder
from toolkit.export import gguf_ladder
from toolkit.export.export_forms import EXPORT_FORMS, GGUF_FILE
from toolkit.export.export_state import certificate_path, commit_hash, export_folder, read_export_state
from toolkit.export.gguf_ladder import (
    GgufRung,
    PlayedGguf,
    compare_gguf_files,
    describe_smallest,
    list_ggml_libraries,
    list_ladder_cells,
    list_ladder_forms,
    played_path,
    read_played,
)
from toolkit.export.parity_certificate import certify_replay, write_certificate
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import commit_dir

TIED = {"answer_ids": (8, 7, 2), "answer": "c"}  # the second token led by 0.001 only
OTHER = {"answer_ids": (7, 9, 2), "answer": "c"}


def export(run: RunDir, form: str, size: int, played: dict[str, Any] | None = None) -> None:
    staging = run.exports_dir / ".new"
    staging.mkdir(parents=True)
    (staging / GGUF_FILE).write_bytes(b"w" * size)
    commit_dir(staging, export_folder(run, form), {})
    dtype = EXPORT_FORMS[form].dtype
    replayed = replay(played, dtype=dtype, precision=dtype, base_matches=None)
    found = certify_replay(contract(), replayed, form=form, commit=commit_hash(export_folder(run, form)))
    write_certificate(certificate_path(run, form), found)


def play(run: RunDir, form: str, **found: Any) -> None:
    played = PlayedGguf(commit=commit_hash(export_folder(run, form)), asked=4, ids_equal=4, **found)
    played_path(run, form).write_text(played.model_dump_json())


def compare(run: RunDir) -> list[GgufRung]:
    return compare_gguf_files(run, [read_export_state(run, form) for form in EXPORT_FORMS])


def test_the_smallest_that_answers_the_same_is_named(save_dir: Path) -> None:
    run = queue(save_dir)
    assert compare(run) == []
    export(run, "gguf-q5", 600)
    export(run, "gguf", 1600)
    export(run, "gguf-q8", 850, TIED)
    export(run, "gguf-q4", 450, OTHER)
    rungs = compare(run)
    assert [(rung.form.key, rung.bytes, rung.equal, rung.passed) for rung in rungs] == [
        ("gguf", 1600, 4, True),
        ("gguf-q8", 850, 0, True),
        ("gguf-q5", 600, 4, True),
        ("gguf-q4", 450, 0, False),
    ]
    said = describe_smallest(rungs)
    assert "still answers the same: GGUF, 5 bits (q5_k_m), 600 B (4 of 4 answers equal)" in said
    assert describe_smallest(rungs[-1:]).startswith("No GGUF file answers every golden prompt")
    terminal = Console(file=io.StringIO(), width=200)
    print_ladder(rungs, terminal)
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert said in printed and "4 of 4" in printed and "0 of 4" in printed and "NO" in printed, printed


def test_what_llama_cpp_answers_counts_where_it_has_played_the_file(save_dir: Path) -> None:
    run = queue(save_dir)
    export(run, "gguf", 1600)
    export(run, "gguf-q8", 850)
    export(run, "gguf-q6", 700)
    play(run, "gguf", equal=4, tokens=32, seconds=2.0)
    play(run, "gguf-q8", equal=3, tokens=32, seconds=0.5)
    play(run, "gguf-q6", problem="llama.cpp could not play the file: out of memory")
    rungs = compare(run)
    assert [list_ladder_cells(rung)[2:4] for rung in rungs] == [
        ("16.0 tokens/s", "0 of 4"),
        ("64.0 tokens/s", "1 of 4"),
        ("failed", "0 of 4"),
    ]
    assert "GGUF, 6 bits" in describe_smallest(rungs), "the certificate speaks for a file that was not played"
    assert "GGUF, 16 bits" in describe_smallest(rungs[:2])


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"commit": 1}', '{"commit": "another"}', "[" * 5000])
def test_figures_that_are_not_of_this_file_do_not_count(save_dir: Path, content: str) -> None:
    run = queue(save_dir)
    export(run, "gguf", 100)
    played_path(run, "gguf").write_text(content)
    assert read_played(run, "gguf", commit_hash(export_folder(run, "gguf"))) is None
    assert [rung.played for rung in compare(run)] == [None]


def test_a_folder_without_its_file_is_no_rung(save_dir: Path) -> None:
    run = queue(save_dir)
    export(run, "gguf", 100)
    (export_folder(run, "gguf") / GGUF_FILE).unlink()
    assert compare(run) == []


def test_the_ladder_has_what_can_be_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gguf_ladder, "LIBRARY_NAMES", {})
    monkeypatch.setattr(gguf_ladder.ctypes.util, "find_library", lambda name: None)
    assert list_ggml_libraries() == [] and list_ladder_forms() == ["gguf", "gguf-q8"]
    (tmp_path / gguf_ladder.QUANTIZER).write_text("#!/bin/sh\n")
    (tmp_path / gguf_ladder.QUANTIZER).chmod(0o755)
    every = ["gguf", "gguf-q8", "gguf-q6", "gguf-q5", "gguf-q4"]
    assert list_ggml_libraries() == [] and list_ladder_forms() == every
    (tmp_path / "libggml-base.so").write_bytes(b"")
    assert list_ggml_libraries() == [tmp_path / "libggml-base.so"]

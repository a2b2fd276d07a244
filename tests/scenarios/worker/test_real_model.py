"""A real model from its tokens to its exports: SmolLM2-135M-Instruct (`tests/fakes/real_model.py` names its traps)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, make_table, rows, train_here
from tests.scenarios.worker.test_gguf import assert_llama_cpp_agrees, needs_llama_cpp
from tests.worker.test_export import build, verdict
from toolkit.export.export_state import export_folder
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import read_run_status

pytestmark = [pytest.mark.worker, pytest.mark.real]
GGUF_FORMS = ("gguf", "gguf-q8")
SYSTEM = "You answer for a shop. Say the number of pieces and the item."


class Quiet:
    def report_progress(self, phase: str, done: int = 0, total: int = 0) -> None:
        return


def conversations(count: int) -> list[dict[str, str | None]]:
    """Return cells of conversations with a system text and two questions each."""

    def turns(row: dict[str, str | None]) -> list[dict[str, Any]]:
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Hello! 👋🏽"},
            {"role": "assistant", "content": "Hello, what would you like?"},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]

    return [{"messages": json.dumps(turns(row))} for row in rows(count)]


def settings_for(save_dir: Path, model: Path) -> dict[str, Any]:
    """Return a run of four steps on conversations, with as few answers as possible: each token takes a core's time."""
    settings = draft(save_dir, model, per_device_train_batch_size=2, learning_rate=1e-3, eval_steps=4)
    settings["data"].update(messages="messages", train_size=4, test_size=1)
    settings["model"]["device_map"] = "cpu"
    settings["training"].update(pinned_rows=0, sft_args={"max_seq_length": 128})
    settings["inference"] = {"max_new_tokens": 6}
    return settings


def ask(settings: dict[str, Any], cells: list[dict[str, str | None]], folder: Path, **more: Any) -> dict[str, Any]:
    """Return the body of a question to the background worker."""
    return {"config": settings, "table": str(make_table(folder / "t.parquet", cells).path), **more}


@pytest.fixture(scope="module")
def run(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    place = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        made = make_run(settings_for(place / "save", real_model), conversations(5))
        code, events = train_here(made)
        assert code == 0, events[-1]
    return made


def test_the_token_view_shows_its_own_ids_with_one_bos_for_each_turn(real_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from toolkit.worker.questions.xray import answer_token_view

    settings = draft(tmp_path, real_model)
    view = answer_token_view(ask(settings, rows(3), tmp_path, row=1), Quiet())  # type: ignore[arg-type]
    shown = [token for part in view["parts"] for token in part["tokens"]]
    plain = AutoTokenizer.from_pretrained(real_model)
    turns = [
        {"role": "user", "content": rows(3)[1]["question"]},
        {"role": "assistant", "content": rows(3)[1]["answer"]},
    ]
    assert [token[0] for token in shown] == plain.apply_chat_template(turns)["input_ids"]
    assert [token[0] for token in shown].count(plain.bos_token_id) == 3, "system, user, assistant"
    trained = "".join(token[1] for token in shown if token[3] == "t")
    assert trained == "2 chair<|im_end|>\n"


def test_conversations_with_a_system_text_have_no_blocking_problem(real_model: Path, tmp_path: Path) -> None:
    from toolkit.worker.questions.hard_stops import answer_hard_stops

    body = ask(settings_for(tmp_path, real_model), conversations(12), tmp_path)
    found = answer_hard_stops(body, Quiet())  # type: ignore[arg-type]
    assert found == {"faults": [], "checked": 12, "usable": 12}


def test_a_run_of_four_steps_learns(run: RunDir) -> None:
    status = read_run_status(run)
    assert status.state == "finished", status
    losses = [event["loss"] for event in events_of(run, "log") if "loss" in event]
    assert len(losses) == 4 and losses[-1] < losses[0]


@pytest.fixture(scope="module")
def files(run: RunDir) -> RunDir:
    """Return the run with its GGUF files, which are played as well."""
    for form in GGUF_FORMS:
        build(run, form)
    return run


@pytest.mark.parametrize("form", ["adapter", "merged-bf16"])
def test_its_exports_are_certified(run: RunDir, form: str) -> None:
    build(run, form)
    certificate = verdict(run, form)
    assert certificate.passed, certificate.failures


@pytest.mark.parametrize("form", GGUF_FORMS)
def test_its_gguf_files_are_certified(files: RunDir, form: str) -> None:
    certificate = verdict(files, form)
    assert certificate.verdict in ("same", "close"), certificate.failures
    assert all(row.ids_equal for row in certificate.rows)
    assert not list(export_folder(files, form).glob("*.safetensors"))


@needs_llama_cpp
def test_llama_cpp_makes_its_ids_and_its_answers(files: RunDir) -> None:
    assert_llama_cpp_agrees([(files, form) for form in GGUF_FORMS], {"gguf": 0.05, "gguf-q8": 0.3})

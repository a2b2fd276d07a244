"""Evaluations and prompt sets on the disk: complete or absent, and a state that follows from events and lock."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.evaluation.planted import make_run
from tests.fakes.training import make_table
from toolkit.errors import DataError, RunError
from toolkit.evaluation import evaluation_dir, progress, prompt_sets
from toolkit.evaluation.evaluation_dir import EvaluationSpec
from toolkit.evaluation.questions import make_questions
from toolkit.runs.events import Event, EventWriter
from toolkit.runs.run_dir import delete_run
from toolkit.system.locks import WorkerLock


def test_an_evaluation_is_read_as_it_was_created(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["a", "b"])
    first = evaluation_dir.create_evaluation(run, EvaluationSpec())
    second = evaluation_dir.create_evaluation(run, EvaluationSpec(rows=1, seed=7))
    assert evaluation_dir.list_evaluations(run) == [second, first]
    assert (evaluation_dir.read_evaluation_spec(second).rows, evaluation_dir.read_evaluation_spec(second).seed) == (
        1,
        7,
    )
    assert len(make_questions(second)) == 1
    assert [path.name for path in run.evaluation_dir.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(RunError):
        evaluation_dir.open_evaluation(run, "../../etc")
    evaluation_dir.delete_evaluation(second)
    assert evaluation_dir.list_evaluations(run) == [first]


def test_a_running_evaluation_is_not_deleted(tmp_path: Path) -> None:
    evaluation = evaluation_dir.create_evaluation(make_run(tmp_path, ["a"]), EvaluationSpec())
    with WorkerLock(evaluation.lock_path), pytest.raises(RunError, match="still running"):
        evaluation_dir.delete_evaluation(evaluation)
    with WorkerLock(evaluation.lock_path), pytest.raises(RunError, match="still running"):
        delete_run(evaluation.run)
    delete_run(evaluation.run)
    assert not evaluation.path.exists()


def test_a_spec_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    evaluation = evaluation_dir.create_evaluation(make_run(tmp_path, ["a"]), EvaluationSpec())
    evaluation.spec_path.write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match="newer"):
        evaluation_dir.read_evaluation_spec(evaluation)


def test_a_row_with_an_empty_cell_stays_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["a"])
    table = make_table(tmp_path / "other.parquet", [{"q": "one", "a": "1"}, {"q": None, "a": "2"}])
    asked = make_questions(evaluation_dir.create_evaluation(run, EvaluationSpec(source="file"), table=table))
    assert [(q.prompt, q.expected, bool(q.error)) for q in asked] == [("one", "1", False), ("", "2", True)]
    assert "'q'" in asked[1].error


def test_a_file_without_a_completion_column_has_no_expected_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["a"])
    table = make_table(tmp_path / "other.parquet", [{"q": "one", "z": "1"}])
    assert (
        make_questions(evaluation_dir.create_evaluation(run, EvaluationSpec(source="file"), table=table))[0].expected
        is None
    )
    with pytest.raises(DataError, match="No column"):
        wrong = make_table(tmp_path / "wrong.parquet", [{"z": "1"}])
        make_questions(evaluation_dir.create_evaluation(run, EvaluationSpec(source="file"), table=wrong))


def fold(*events: tuple[str, dict[str, object]], is_running: bool) -> progress.EvaluationProgress:
    made: list[Event] = [{"kind": kind, "t": float(at), "n": at, **more} for at, (kind, more) in enumerate(events)]
    return progress.fold_evaluation_events(made, is_running=is_running, now=10.0)


def test_the_state_follows_from_events_and_lock() -> None:
    going = [
        ("started", {}),
        ("phase", {"phase": "asking"}),
        ("progress", {"done": 3, "total": 12, "remaining_s": 9.0}),
    ]
    now = fold(*going, is_running=True)
    assert (now.state, now.phase, now.fraction, now.remaining_s, now.elapsed_s) == ("running", "asking", 0.25, 9.0, 10)
    assert fold(*going, is_running=False).state == "interrupted"
    assert fold(is_running=False).state == "new"
    assert fold(*going, ("finished", {}), is_running=False).state == "finished"
    failed = fold(*going, ("failed", {"message": "no", "hint": "do"}), is_running=False)
    assert (failed.state, failed.message, failed.hint) == ("failed", "no", "do")
    again = fold(*going, ("failed", {"message": "no"}), ("started", {}), is_running=True)
    assert (again.state, again.message) == ("running", "")


def test_progress_follows_from_the_files_on_the_disk(tmp_path: Path) -> None:
    evaluation = evaluation_dir.create_evaluation(make_run(tmp_path, ["a"]), EvaluationSpec())
    assert progress.read_evaluation_progress(evaluation).state == "new"
    with WorkerLock(evaluation.lock_path), EventWriter(evaluation.events_path) as events:
        events.append("started")
        assert progress.read_evaluation_progress(evaluation).is_running
    assert progress.read_evaluation_progress(evaluation).state == "interrupted"


def test_prompt_sets_are_saved_changed_and_deleted(tmp_path: Path) -> None:
    made = prompt_sets.save_prompt_set(
        tmp_path, prompt_sets.make_prompt_set("  mine ", [("Hello?", "Hi!"), ("", "x"), ("Who?", "")])
    )
    assert [(item.prompt, item.expected) for item in made.items] == [("Hello?", "Hi!"), ("Who?", None)]
    assert prompt_sets.list_prompt_sets(tmp_path) == [made]
    changed = prompt_sets.save_prompt_set(tmp_path, made.model_copy(update={"name": "ours"}))
    assert prompt_sets.list_prompt_sets(tmp_path) == [changed]
    (prompt_sets.prompt_sets_dir(tmp_path) / "damaged.json").write_text("{")
    assert prompt_sets.list_prompt_sets(tmp_path) == [changed]
    run = make_run(tmp_path, ["a"])
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec(source="prompts"), prompts=changed)
    prompt_sets.delete_prompt_set(tmp_path, changed.id)
    assert prompt_sets.list_prompt_sets(tmp_path) == []
    assert [q.expected for q in make_questions(evaluation)] == ["Hi!", None], "an evaluation keeps its own copy"


def test_a_prompt_set_from_a_table(tmp_path: Path) -> None:
    cells: list[dict[str, str | None]] = [
        {"id": "1", "Prompt": "p", "Expected": "007"},
        {"id": "2", "Prompt": "q", "Expected": None},
    ]
    made = prompt_sets.prompt_set_from_table("t", make_table(tmp_path / "t.parquet", cells))
    assert [(item.prompt, item.expected) for item in made.items] == [("p", "007"), ("q", None)]
    asked: list[dict[str, str | None]] = [
        {
            "id": str(i),
            "context": f"The lamp {i} is red.",
            "question": f"Which colour has lamp {i}?",
            "answer": f"red {i}",
        }
        for i in range(12)
    ]
    made = prompt_sets.prompt_set_from_table("t", make_table(tmp_path / "q.parquet", asked))
    assert made.items[1] == prompt_sets.PromptItem(
        prompt="The lamp 1 is red.\n\nWhich colour has lamp 1?", expected="red 1"
    )
    unclear: list[dict[str, str | None]] = [{"a": f"text {i}", "b": f"other {i}", "c": f"more {i}"} for i in range(12)]
    with pytest.raises(DataError, match="not clear which column"):
        prompt_sets.prompt_set_from_table("t", make_table(tmp_path / "u.parquet", unclear))
    bare = prompt_sets.prompt_set_from_table("t", make_table(tmp_path / "b.parquet", [{"z": "only"}]))
    assert (bare.items[0].prompt, bare.items[0].expected) == ("only", None)


@pytest.mark.parametrize("pairs", [[], [("  ", "x")], [("x" * 60_000, None)], [("x", None)] * 2_001])
def test_invalid_prompt_sets_are_refused(pairs: list[tuple[str, str | None]]) -> None:
    with pytest.raises(DataError):
        prompt_sets.make_prompt_set("name", pairs)


def test_a_full_disk_leaves_no_partial_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, ["one"])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation_dir, "durable_write", full)
    with pytest.raises(RunError, match="No space left"):
        evaluation_dir.create_evaluation(run, EvaluationSpec())
    assert not list(run.evaluation_dir.iterdir())

"""`python -m toolkit evaluate`: output, exit codes, and continuing an unfinished evaluation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import call
from tests.evaluation.planted import known_flips, make_run
from toolkit.cli import console, evaluate
from toolkit.evaluation import evaluation_dir, progress, prompt_sets
from toolkit.evaluation.answers import AnswerLog, EvaluationAnswer, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.questions import make_questions
from toolkit.runs.events import EventWriter
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir

SAID = known_flips(fixed=20, broke=1, same=2, both_wrong=1)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = make_run(tmp_path / "experiments", list(SAID))
    made.adapter_dir.mkdir()
    return made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """A fake evaluation process that answers every question as SAID; returns the evaluations that were started."""
    found: list[Evaluation] = []

    def play(evaluation: Evaluation) -> None:
        found.append(evaluation)
        asked = make_questions(evaluation)
        log = AnswerLog(evaluation.answers_path)
        for question in asked:
            for model, text in zip(
                (BASE, evaluation.run.id), SAID.get(question.expected or "", ("a", "b")), strict=True
            ):
                log.write([EvaluationAnswer(model, question.position, text)])
        log.close()
        conclude_evaluation(
            evaluation, asked, read_recorded_answers(evaluation.answers_path), (BASE, evaluation.run.id), 1.0
        )
        with EventWriter(evaluation.events_path) as events:
            events.append("started")
            events.append("finished")

    monkeypatch.setattr(progress, "start_evaluation", play)
    return found


Ask = Callable[..., int]


@pytest.fixture
def ask(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Ask:
    def asked(*words: str) -> int:
        return call(monkeypatch, "evaluate", run.id, "--save-dir", str(run.save_dir), *words)

    return asked


def test_the_verdict_and_every_measure_are_printed(
    ask: Ask, started: list[Any], run: RunDir, capsys: Any, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\n" + "".join(f"question {i},{text}\n" for i, text in enumerate(SAID)))
    assert ask("--file", str(rows)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "It is better than its base model." in out
    assert "It fixed 20 rows and broke 1." in out
    assert "Exact match" in out
    assert "ROUGE-L" in out


def test_the_gate_decides_the_exit_code(ask: Ask, started: list[Any], capsys: Any, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("rules:\n  - {kind: contains, text: wrong, negate: true}\ngate: {improves: null}\n")
    rows = tmp_path / "rows.csv"
    rows.write_text("q,a\n" + "".join(f"question {i},{text}\n" for i, text in enumerate(SAID)))
    assert ask("--file", str(rows), "--rules", str(rules)) == console.EXIT_GATE_REFUSED
    assert "do not promote" in capsys.readouterr().out
    rules.write_text("rules: [{kind: banana}]\n")
    assert ask("--rules", str(rules)) == 1
    assert "banana" in capsys.readouterr().err
    rules.write_text("rules: [{kind: contains\n")
    assert ask("--rules", str(rules)) == 2
    assert "not plain YAML" in capsys.readouterr().err


def test_a_prompt_set_is_chosen_by_name(ask: Ask, started: list[Any], run: RunDir, capsys: Any) -> None:
    prompt_sets.save_prompt_set(run.save_dir, prompt_sets.make_prompt_set("mine", [("Hello?", None)]))
    assert ask("--prompts", "mine") == 0
    assert evaluation_dir.read_evaluation_spec(started[0]).label == "mine"
    assert "nothing can be scored" in capsys.readouterr().out
    assert ask("--prompts", "yours") == 1
    assert "Saved prompt sets: mine." in capsys.readouterr().err


def test_an_unfinished_evaluation_continues_and_a_finished_one_does_not(
    ask: Ask, started: list[Any], run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = evaluation_dir.create_evaluation(run, evaluation_dir.EvaluationSpec())
    with EventWriter(left.events_path) as events:
        events.append("started")
    assert ask() == 0
    assert started == [left]
    assert ask() == 0
    assert started[1] != left, "a finished evaluation is not continued"
    with EventWriter(started[1].events_path) as events:
        events.append("started")
    assert ask("--rows", "3") == 0
    assert started[2] not in (left, started[1]), "other rows are another evaluation"


def test_a_run_without_an_adapter_is_an_error(run: RunDir, ask: Ask, capsys: Any) -> None:
    run.adapter_dir.rmdir()
    assert ask() == 1
    assert "has no adapter yet" in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err
    assert sys.argv[1] == "evaluate"


@pytest.mark.parametrize("option", ["--file", "--rules"])
@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/x.csv", "/" + "long/" * 2000], ids=len)
def test_an_impossible_path_is_an_error_without_traceback(option: str, path: str, ask: Ask, capsys: Any) -> None:
    assert ask(option, path) == (1 if option == "--file" else 2)
    said = capsys.readouterr().err
    assert "path" in said
    assert "Traceback" not in said


def test_ctrl_c_requests_a_stop_and_starts_nothing_again(
    ask: Ask, run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    started: list[Evaluation] = []
    looks = iter(
        [
            progress.EvaluationProgress("running", done=3, total=8),
            progress.EvaluationProgress("stopped", done=3, total=8),
        ]
    )

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "start_evaluation", started.append)
    monkeypatch.setattr(progress, "read_evaluation_progress", lambda _: next(looks))
    monkeypatch.setattr(evaluate.time, "sleep", interrupted)
    assert ask() == console.EXIT_INTERRUPTED
    assert len(started) == 1
    assert started[0].stop_path.exists()
    assert "Run the same command again to continue." in capsys.readouterr().err

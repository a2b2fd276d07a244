"""Evaluations with given answers: a run with its own table, and the answers of base and adapter to each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fakes.training import make_table
from toolkit.config import Config
from toolkit.evaluation import evaluation_dir
from toolkit.evaluation.answers import AnswerLog, EvaluationAnswer, ProbeAnswer, read_recorded_answers
from toolkit.evaluation.conclude import conclude_evaluation
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.questions import make_questions
from toolkit.evaluation.statistics.pass_rules import RuleSet
from toolkit.evaluation.statistics.results import EvaluationResults
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, create_run

Pair = tuple[str, str, str]
"""(expected, what the base says, what the adapter says)"""


def make_run(save_dir: Path, expected: Sequence[str]) -> RunDir:
    """A run whose table holds these answers, and four rows to train on."""
    save_dir.mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, str | None]] = [{"q": "trained on", "a": "x"}] * 4
    cells += [{"q": f"question {i}", "a": text} for i, text in enumerate(expected)]
    table = make_table(save_dir / "table.parquet", cells, held_out=len(expected))
    data = {"prompt": "{q}", "prompt_stub": "{a}"}
    return create_run(Config.model_validate({"save_dir": str(save_dir), "data": data}), table)


def plant(
    run: RunDir,
    said: Mapping[str, Sequence[str]],
    rules: RuleSet | None = None,
    probe: Sequence[float] = (),
    asked_for: Sequence[str] = (),
    others: Sequence[str] = (),
) -> tuple[Evaluation, EvaluationResults]:
    """An evaluation that is over. said: expected answer -> (base's, adapter's, those of the others). probe: how the
    loss moves a passage. asked_for: the expected answers row by row, where one occurs more than once.
    """
    models = (BASE, run.id, *others)
    cells: list[dict[str, str | None]] = [{"q": f"question {i}", "a": text} for i, text in enumerate(asked_for or said)]
    table = make_table(run.save_dir / "asked.parquet", cells)
    spec = EvaluationSpec(rows=None, source="file", label="planted rows", compared=tuple(others))
    evaluation = evaluation_dir.create_evaluation(run, spec, rules, table=table)
    asked = make_questions(evaluation)
    log = AnswerLog(evaluation.answers_path)
    for question in asked:
        for model, text in zip(models, said[question.expected or ""], strict=True):
            nll = 1.0 if text == question.expected else 6.0
            log.write([EvaluationAnswer(model, question.position, text, tokens=3, nll=nll, loss_tokens=3)])
    for at, moved in enumerate(probe):
        log.write([ProbeAnswer(BASE, at, 10.0, 10), ProbeAnswer(run.id, at, 10.0 + moved, 10)])
    log.close()
    found = read_recorded_answers(evaluation.answers_path)
    return evaluation, conclude_evaluation(evaluation, asked, found, models, 1.0)


def two_adapters() -> dict[str, tuple[str, str, str]]:
    """46 rows that the base gets wrong; from the first adapter to the second 10 are fixed, 25 broken, 5 right twice."""
    rights = [(number < 30, 25 <= number < 40) for number in range(46)]
    return {
        f"answer {number}": ("no idea", *(f"answer {number}" if right else "wrong" for right in pair))
        for number, pair in enumerate(rights)
    }  # type: ignore[return-value]


def known_flips(
    fixed: int, broke: int, same: int, both_wrong: int, wrong: tuple[str, str] = ("no idea", "wrong")
) -> dict[str, tuple[str, str]]:
    """So many rows of each kind; every expected answer is another one. wrong: what base and adapter say then."""
    kinds = [("fixed", fixed), ("broke", broke), ("same", same), ("both wrong", both_wrong)]
    right = {"fixed": (False, True), "broke": (True, False), "same": (True, True), "both wrong": (False, False)}
    said: dict[str, tuple[str, str]] = {}
    for kind, count in kinds:
        for number in range(count):
            expected = f"{kind.replace(' ', '-')} {number}"
            base, adapter = right[kind]
            said[expected] = (expected if base else wrong[0], expected if adapter else wrong[1])
    return said

"""The section of a model card about the newest evaluation of its adapter: every figure with its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from toolkit.errors import ToolkitError
from toolkit.evaluation.answers import read_recorded_answers
from toolkit.evaluation.evaluation_dir import Evaluation, list_evaluations, read_evaluation_spec
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.results import EvaluationResults, Figure, read_evaluation_results
from toolkit.evaluation.statistics.verdict import format_difference, format_with_interval
from toolkit.export.model_card import inline_code
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import COMMIT_NAME
from toolkit.system.printable import format_plural

_VERDICT_LABELS = {"noise": "within noise"}


def evaluation_section(run: RunDir) -> str | None:
    """Return the figures as Markdown, None when the present adapter has not been evaluated.

    An evaluation that can't be read is skipped: the card is worth having without it.
    """
    for evaluation in list_evaluations(run):
        try:
            results = read_evaluation_results(evaluation.results_path)
            if (
                results is not None
                and results.answered
                and run.id in results.adapters
                and _is_of_current_adapter(evaluation)
            ):
                return "\n".join(_lines(evaluation, results))
        except ToolkitError:
            continue
    return None


def _is_of_current_adapter(evaluation: Evaluation) -> bool:
    """Return whether the evaluation asked the present adapter: training a run further gives it another one."""
    recorded = read_recorded_answers(evaluation.answers_path).identities.get(evaluation.run.id)
    try:
        present = hashlib.sha256((evaluation.run.adapter_dir / COMMIT_NAME).read_bytes()).hexdigest()
    except FileNotFoundError:
        return False
    return recorded in (None, present)  # the first evaluations did not record it


def _lines(evaluation: Evaluation, results: EvaluationResults) -> Iterator[str]:
    name, spec = evaluation.run.id, read_evaluation_spec(evaluation)
    when = f"{datetime.fromtimestamp(spec.created, UTC):%d %B %Y}"
    rows = (
        format_plural(results.asked, "row") if results.complete else f"{results.answered:,} of {results.asked:,} rows"
    )
    yield f"Evaluated on {when} on {inline_code(spec.label)}, {rows}. {' '.join(results.sentences.get(name, ()))}"
    yield ""
    yield "| measure (95 % interval) | base model | this model | difference (98 % interval) | verdict |"
    yield "|---|---|---|---|---|"
    for figure in results.figures:
        yield _row(MEASURES_BY_NAME[figure.measure].title, figure.measure, figure, name)
    if results.probe is not None:
        yield _row("Loss on general text (forgetting probe)", "loss", results.probe, name)
    failed = sum(results.failures.get(name, {}).values())
    if failed:
        yield ""
        yield f"{failed:,} of {results.compared_rows:,} rows have no answer and count as wrong."


def _row(title: str, measure: str, figure: Figure, name: str) -> str:
    kind, difference = MEASURES_BY_NAME[measure], figure.difference_from(BASE, name)
    base, adapter = (format_with_interval(kind, figure.models[model]) for model in (BASE, name))
    verdict = _VERDICT_LABELS.get(difference.verdict, difference.verdict)
    return f"| {title} | {base} | {adapter} | {format_difference(kind, difference)} | {verdict} |"

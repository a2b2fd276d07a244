"""What a model card says of an evaluation: the newest one of the adapter as it is now, every figure with its interval.

Knows results and words; the card around it is `export/model_card.py`'s.
"""

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

_VERDICT_LABELS = {"noise": "within noise"}


def evaluation_section(run: RunDir) -> str | None:
    """Markdown of the figures; None when this adapter has not been evaluated. What can't be read is passed over."""
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
    """Whether it asked the adapter that lies there now: a run that went on has another one."""
    asked = read_recorded_answers(evaluation.answers_path).identities.get(evaluation.run.id)
    try:
        now = hashlib.sha256((evaluation.run.adapter_dir / COMMIT_NAME).read_bytes()).hexdigest()
    except FileNotFoundError:
        return False
    return asked in (None, now)


def _lines(evaluation: Evaluation, results: EvaluationResults) -> Iterator[str]:
    name, spec = evaluation.run.id, read_evaluation_spec(evaluation)
    when = f"{datetime.fromtimestamp(spec.created, UTC):%d %B %Y}"
    rows = f"{results.answered:,} of {results.asked:,} rows" if not results.complete else f"{results.asked:,} rows"
    yield f"Evaluated on {when} on {inline_code(spec.label)}, {rows}. {' '.join(results.sentences.get(name, ()))}"
    yield ""
    yield "| measure (95 % interval) | base model | this model | difference (98 % interval) | |"
    yield "|---|---|---|---|---|"
    for figure in results.figures:
        yield _row(MEASURES_BY_NAME[figure.measure].title, figure.measure, figure, name)
    if results.probe is not None:
        yield _row("Loss on text that it should still know", "loss", results.probe, name)
    failed = sum(results.failures.get(name, {}).values())
    if failed:
        yield ""
        yield f"{failed:,} rows have no answer; they count as wrong."


def _row(title: str, measure: str, figure: Figure, name: str) -> str:
    kind, gap = MEASURES_BY_NAME[measure], figure.against(BASE, name)
    base, adapter = (format_with_interval(kind, figure.models[model]) for model in (BASE, name))
    return f"| {title} | {base} | {adapter} | {format_difference(kind, gap)} | {_VERDICT_LABELS.get(gap.verdict, gap.verdict)} |"

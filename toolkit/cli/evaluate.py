"""`python -m toolkit evaluate RUN`: compare a run's adapter with its base model.

Exit codes: 0 evaluated (and passed the gate, if there is one), 1 failed, 3 refused by the gate, 130 stopped with
Ctrl-C. After Ctrl-C, the same command continues the evaluation.
"""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table as Grid

from toolkit.cli.console import (
    DEFAULT_SAVE_DIR,
    EXIT_FAILED,
    EXIT_GATE_REFUSED,
    EXIT_INTERRUPTED,
    PlainConsole,
    SaveDirOption,
    err,
    out,
)
from toolkit.config import DataConfig
from toolkit.data.readers.formats import file_type_of
from toolkit.data.storage.open_table import open_table
from toolkit.errors import RunError, ToolkitError
from toolkit.evaluation import evaluation_dir, progress, prompt_sets
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.questions import templates_for
from toolkit.evaluation.rule_process import parse_checked_rules
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.pass_rules import RuleSet
from toolkit.evaluation.statistics.results import EvaluationResults, read_evaluation_results
from toolkit.evaluation.statistics.verdict import describe_comparison, format_difference, format_measure_value
from toolkit.field_types import find_path_error
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.settings.yaml_file import load_draft, read_config_text

EVALUATION_POLL_SECONDS = 0.25
TERMINAL_VERDICTS = {"better": "better", "worse": "worse", "noise": "within noise", "differs": "differs"}
_MODEL_COLUMN_WIDTH, _MEASURE_COLUMN_WIDTH = 48, 72
"""Characters of the table of measures: it is widened beyond the terminal rather than truncated."""


def evaluate(
    run: Annotated[str, typer.Argument(help="ID of a run that has an adapter.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Evaluate on the rows of this file. It must have the columns that the templates use."),
    ] = None,
    prompts: Annotated[str, typer.Option(metavar="SET", help="Evaluate on a saved prompt set, by name or ID.")] = "",
    rows: Annotated[
        int, typer.Option(min=0, help="Maximum number of rows; 0 for all.")
    ] = evaluation_dir.DEFAULT_EVALUATION_ROWS,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Also evaluate another run, or a checkpoint as RUN@STEP. Can be repeated."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML or JSON file with pass rules and a gate.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Also check for forgetting: measure the loss on general text.")] = True,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new evaluation, even if an unfinished one can be continued.")
    ] = False,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Compare RUN's adapter with its base model on rows that it was not trained on."""
    chosen = open_run(save_dir, run)
    if not chosen.adapter_dir.is_dir():
        raise RunError(f"Run {run} has no adapter yet.", "Wait until it has finished.")
    pass_rules = parse_checked_rules(load_draft(read_config_text(rules))) if rules else RuleSet()
    spec = EvaluationSpec(rows=rows or None, compared=tuple(compare or ()), probe=probe)
    evaluation = None if new else _find_unfinished_evaluation(chosen, spec, file, prompts)
    if evaluation is not None:
        out.print(f"Continuing the unfinished evaluation {evaluation.id}. Use --new to start over.")
        if rules:
            evaluation_dir.replace_evaluation_rules(evaluation, pass_rules)
    else:
        evaluation = _create_evaluation(chosen, spec, pass_rules, file, prompts)
    raise typer.Exit(_follow_evaluation(evaluation))


def _create_evaluation(
    run: RunDir, spec: EvaluationSpec, rules: RuleSet, file: Path | None, prompts: str
) -> Evaluation:
    if file is not None and prompts:
        raise ToolkitError("--file and --prompts cannot be combined.", "Give only one of them.")
    if file is not None:
        fault = find_path_error(str(file))
        if fault:
            raise ToolkitError(f"{fault}: {str(file)[:80]!r}.", "Give --file the path of a file on this machine.")
        table = open_table(DataConfig(file_type=file_type_of(file), path=str(file)), run.save_dir)
        templates_for(read_run_config(run), table.columns, table.label)
        spec = spec.model_copy(update={"source": "file", "label": file.name})
        return evaluation_dir.create_evaluation(run, spec, rules, table=table)
    if prompts:
        chosen = _find_prompt_set(run.save_dir, prompts)
        spec = spec.model_copy(update={"source": "prompts", "label": chosen.name})
        return evaluation_dir.create_evaluation(run, spec, rules, prompts=chosen)
    return evaluation_dir.create_evaluation(run, spec, rules)


def _find_prompt_set(save_dir: Path, wanted: str) -> prompt_sets.PromptSet:
    sets = prompt_sets.list_prompt_sets(save_dir)
    chosen = next((prompt_set for prompt_set in sets if wanted in (prompt_set.id, prompt_set.name)), None)
    if chosen is None:
        names = ", ".join(prompt_set.name for prompt_set in sets) or "none"
        raise ToolkitError(f"There is no prompt set '{wanted}'.", f"Saved prompt sets: {names}.")
    return chosen


def _find_unfinished_evaluation(
    run: RunDir, spec: EvaluationSpec, file: Path | None, prompts: str
) -> Evaluation | None:
    """Return the run's newest evaluation if it is unfinished and has the same specification."""
    newest = next(iter(evaluation_dir.list_evaluations(run)), None)
    if newest is None or file is not None or prompts:
        return None
    same = evaluation_dir.read_evaluation_spec(newest).model_copy(update={"created": spec.created}) == spec
    unfinished = progress.read_evaluation_progress(newest).state in ("running", "stopped", "interrupted")
    return newest if same and unfinished else None


def _follow_evaluation(evaluation: Evaluation) -> int:
    """Start the evaluation, show its progress and results, and return the exit code."""
    out.print(f"Evaluation {evaluation.id} in {evaluation.path}")
    try:
        progress.start_evaluation(evaluation)
        ended = _show_evaluation_progress(evaluation)
    except KeyboardInterrupt:
        evaluation_dir.request_evaluation_stop(evaluation)
        _show_evaluation_progress(evaluation)  # the worker stops after the current batch of answers
        err.print("Stopped. Run the same command again to continue.")
        _print_results(read_evaluation_results(evaluation.results_path))
        return EXIT_INTERRUPTED
    if ended.state in ("failed", "interrupted", "new"):
        err.print(f"error: {ended.message or 'The evaluation ended without an error message.'} {ended.hint}".rstrip())
        return EXIT_FAILED
    results = read_evaluation_results(evaluation.results_path)
    _print_results(results)
    refused = results is not None and any(not gate.passed for gate in results.gate.values())
    return EXIT_GATE_REFUSED if refused else 0


def _show_evaluation_progress(evaluation: Evaluation) -> progress.EvaluationProgress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, left="")
        while (now := progress.read_evaluation_progress(evaluation)).is_running:
            left = "" if now.remaining_s is None else f"about {now.remaining_s:,.0f} s left"
            bar.update(task, completed=now.fraction, description=now.phase or "starting", left=left)
            time.sleep(EVALUATION_POLL_SECONDS)
    return now


def _print_results(results: EvaluationResults | None) -> None:
    if results is None:
        return
    for name in results.adapters:
        if len(results.adapters) > 1:
            out.print(f"\n{name}:")
        out.print(" ".join(results.sentences[name]))
    for left, right in combinations(results.adapters, 2):
        words = describe_comparison(results, right, left, (left, left))
        out.print(f"\n{right} compared with {left}: {' '.join(words)}")
    for model, reasons in results.failures.items():
        for reason, count in reasons.items():
            out.print(f"{model}: {count} rows without an answer: {reason}")
    width = max(out.width, _MEASURE_COLUMN_WIDTH + _MODEL_COLUMN_WIDTH * len(results.adapters))
    PlainConsole(width=width, soft_wrap=False).print(_build_figures_table(results))
    for name, gate in results.gate.items():
        out.print(f"Gate for {name}: {'promote' if gate.passed else 'do not promote'}. {' '.join(gate.reasons)}")


def _build_figures_table(results: EvaluationResults) -> Grid:
    grid = Grid(
        "measure", *results.models, *["difference", "verdict"] * len(results.adapters), box=None, pad_edge=False
    )
    for figure in results.figures:
        measure = MEASURES_BY_NAME[figure.measure]
        values = [format_measure_value(measure, figure.models[name].value) for name in results.models]
        differences = [
            text
            for difference in figure.differences.values()
            for text in (format_difference(measure, difference), TERMINAL_VERDICTS[difference.verdict])
        ]
        grid.add_row(measure.title, *values, *differences)
    return grid

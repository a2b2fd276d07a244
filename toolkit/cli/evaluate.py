"""`python -m toolkit evaluate RUN`: is the run better than its base model, without a browser.

Exit codes: 0 evaluated (and the gate passed, if there is one), 1 failed, 3 the gate says no, 130 stopped by Ctrl-C;
the same command goes on then. Knows neither how a model is asked nor how an interval is made.
"""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table as Grid

from toolkit.config import Config, DataConfig
from toolkit.data.storage.open_table import open_table
from toolkit.errors import RunError, ToolkitError
from toolkit.evaluation import evaluation_dir, progress, prompt_sets
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.questions import templates_for
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME
from toolkit.evaluation.statistics.pass_rules import RuleSet, parse_pass_rules
from toolkit.evaluation.statistics.results import EvaluationResults, read_evaluation_results
from toolkit.evaluation.statistics.verdict import describe_comparison, format_difference, format_measure_value
from toolkit.field_types import find_path_error
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.settings.yaml_file import load_draft, read_config_text

FAILED, EXIT_GATE_REFUSED, STOPPED = 1, 3, 130
EVALUATION_POLL_SECONDS = 0.25
HERE = Path(Config().save_dir or ".")
TERMINAL_VERDICTS = {"better": "better", "worse": "worse", "noise": "within noise", "differs": "differs"}

out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def evaluate(
    run: Annotated[str, typer.Argument(help="The id of a run that has an adapter.")],
    file: Annotated[Path | None, typer.Option(help="A CSV or JSON file with the columns of the templates.")] = None,
    prompts: Annotated[str, typer.Option(help="A prompt set, by name or id.")] = "",
    rows: Annotated[int, typer.Option(min=0, help="At most so many rows; 0 means all.")] = evaluation_dir.DEFAULT_EVALUATION_ROWS,
    compare: Annotated[list[str] | None, typer.Option(help="Another run, or RUN@STEP; may be repeated.")] = None,
    rules: Annotated[Path | None, typer.Option(help="A YAML or JSON file with rules and a gate.")] = None,
    probe: Annotated[bool, typer.Option(help="Look whether something was forgotten.")] = True,
    new: Annotated[bool, typer.Option("--new", help="Start anew instead of going on with an unfinished one.")] = False,
    save_dir: Annotated[Path, typer.Option(help="The folder that the runs are in.")] = HERE,
) -> None:  # fmt: skip
    """Compare RUN's adapter with its base model on rows that it was not trained on."""
    chosen = open_run(save_dir, run)
    if not chosen.adapter_dir.is_dir():
        raise RunError(f"Run {run} has no adapter yet.", "Wait until it has finished.")
    wanted = parse_pass_rules(load_draft(read_config_text(rules))) if rules else RuleSet()
    spec = EvaluationSpec(rows=rows or None, compared=tuple(compare or ()), probe=probe)
    evaluation = None if new else _find_unfinished_evaluation(chosen, spec, file, prompts)
    if evaluation is not None:
        out.print(f"Going on with evaluation {evaluation.id}.")
        if rules:
            evaluation_dir.replace_evaluation_rules(evaluation, wanted)
    else:
        evaluation = _create_evaluation(chosen, spec, wanted, file, prompts)
    raise typer.Exit(_follow_evaluation(evaluation))


def _create_evaluation(
    run: RunDir, spec: EvaluationSpec, rules: RuleSet, file: Path | None, prompts: str
) -> Evaluation:
    if file is not None and prompts:
        raise ToolkitError("Both a file and a prompt set are given.", "Choose one of them.")
    if file is not None:
        fault = find_path_error(str(file))
        if fault:
            raise ToolkitError(f"{fault}: {str(file)[:80]!r}.", "Give --file the path of a file on this machine.")
        kind = "csv" if file.suffix.lower() in (".csv", ".tsv", ".txt") else "json"
        table = open_table(DataConfig(file_type=kind, path=str(file)), run.save_dir)
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
    found = next((one for one in sets if wanted in (one.id, one.name)), None)
    if found is None:
        names = ", ".join(one.name for one in sets) or "none"
        raise ToolkitError(f"There is no prompt set '{wanted}'.", f"There are: {names}.")
    return found


def _find_unfinished_evaluation(
    run: RunDir, spec: EvaluationSpec, file: Path | None, prompts: str
) -> Evaluation | None:
    """The newest evaluation of the run when it asks the same and was not finished."""
    newest = next(iter(evaluation_dir.list_evaluations(run)), None)
    if newest is None or file is not None or prompts:
        return None
    same = evaluation_dir.read_evaluation_spec(newest).model_copy(update={"created": spec.created}) == spec
    return (
        newest
        if same and progress.read_evaluation_progress(newest).state in ("running", "stopped", "interrupted")
        else None
    )


def _follow_evaluation(evaluation: Evaluation) -> int:
    out.print(f"Evaluation {evaluation.id} in {evaluation.path}")
    try:
        progress.start_evaluation(evaluation)
        now = _show_evaluation_progress(evaluation)
    except KeyboardInterrupt:
        evaluation_dir.request_evaluation_stop(evaluation)
        now = _show_evaluation_progress(evaluation)
        err.print("Stopped. The same command goes on.")
        _print_results(read_evaluation_results(evaluation.results_path))
        return STOPPED
    if now.state in ("failed", "interrupted", "new"):
        err.print(f"error: {now.message or 'The evaluation ended without a word.'} {now.hint}".rstrip())
        return FAILED
    results = read_evaluation_results(evaluation.results_path)
    _print_results(results)
    refused = results is not None and any(not gate.passed for gate in results.gate.values())
    return EXIT_GATE_REFUSED if refused else 0


def _show_evaluation_progress(evaluation: Evaluation) -> progress.EvaluationProgress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, left="")
        while (now := progress.read_evaluation_progress(evaluation)).going:
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
        out.print(f"\n{right} against {left}: {' '.join(words)}")
    for model, reasons in results.failures.items():
        for reason, count in reasons.items():
            out.print(f"{model}: {count} without an answer: {reason}")
    wide = Console(highlight=False, markup=False, width=max(out.width, 72 + 48 * len(results.adapters)))
    wide.print(_build_figures_table(results))
    for name, gate in results.gate.items():
        out.print(f"Gate, {name}: {'promote' if gate.passed else 'do not promote'}. {' '.join(gate.reasons)}")


def _build_figures_table(results: EvaluationResults) -> Grid:
    grid = Grid(
        "measure", *results.models, *["difference", "verdict"] * len(results.adapters), box=None, pad_edge=False
    )
    for figure in results.figures:
        measure = MEASURES_BY_NAME[figure.measure]
        values = [format_measure_value(measure, figure.models[name].value) for name in results.models]
        gaps = [
            (format_difference(measure, gap), TERMINAL_VERDICTS[gap.verdict]) for gap in figure.differences.values()
        ]
        grid.add_row(measure.title, *values, *(word for pair in gaps for word in pair))
    return grid

"""The questions of an evaluation: the test set of the run, the rows of a file, or a prompt set; the forgetting probe.

Rows are rendered with the templates of training. A row that can't be asked stays in the list with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import numpy as np

from toolkit.config import Config
from toolkit.data.chat_messages import Message
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import CompiledTemplate, Renderer, compile_template
from toolkit.data.storage.bounded_tables import load_bounded_table
from toolkit.data.table import Table, TableRow
from toolkit.demo_data.corpus import documents
from toolkit.errors import DataError, RunError
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec, read_evaluation_prompts, read_evaluation_spec
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.paths import ASSETS

DEMO_CHECKPOINT = "bundled:demo-model"
DEMO_SEED = 918_273  # pretraining uses another one
DEMO_PASSAGES = 48


@dataclass(frozen=True)
class EvaluationQuestion:
    """One question.

    position: 0-based among the questions. row: 0-based in its table or set. expected: None when it is not known.
    error: why it can't be asked, or "". turns: the whole conversation, of which the last message is asked for.
    inputs: the cells of the prompt by column; empty for conversations and prompt sets.
    """

    position: int
    row: int
    prompt: str
    expected: str | None
    error: str = ""
    turns: tuple[Message, ...] = ()
    inputs: Mapping[str, str | None] = field(default_factory=dict, compare=False)


def make_questions(evaluation: Evaluation) -> list[EvaluationQuestion]:
    """Return the questions, at most `spec.rows`. Raises ToolkitError: there are no rows, or the columns do not fit."""
    spec, config = read_evaluation_spec(evaluation), read_run_config(evaluation.run)
    if spec.source == "prompts":
        items = read_evaluation_prompts(evaluation).items[: spec.rows]
        return [EvaluationQuestion(i, i, item.prompt, item.expected) for i, item in enumerate(items)]
    questions = (
        _test_row_questions(evaluation.run, config, spec)
        if spec.source == "test"
        else _file_questions(evaluation, config, spec)
    )
    if not questions:
        raise RunError("There are no rows to evaluate.", "Train with a test set, or choose a file.")
    return questions


def count_test_rows(run: RunDir) -> int:
    """Return the number of rows in the run's test set."""
    return len(plan_split(load_bounded_table(run.source_path), read_run_config(run).data).test)


def _test_row_questions(run: RunDir, config: Config, spec: EvaluationSpec) -> list[EvaluationQuestion]:
    table = load_bounded_table(run.source_path)
    renderer = renderer_of(config.data, table.columns)
    rows = plan_split(table, config.data).test[: spec.rows]
    if isinstance(renderer, ChatRenderer):
        return list(_conversation_questions(table, rows.tolist(), renderer))
    return list(_template_questions(table, rows.tolist(), renderer))


def _file_questions(evaluation: Evaluation, config: Config, spec: EvaluationSpec) -> list[EvaluationQuestion]:
    table = load_bounded_table(evaluation.data_path)
    if config.data.messages is not None:
        renderer = renderer_of(config.data, table.columns, table.label)
        return list(_conversation_questions(table, list(range(table.rows))[: spec.rows], cast(ChatRenderer, renderer)))
    prompt, stub = templates_for(config, table.columns, table.label)
    renderer = Renderer(prompt, stub or CompiledTemplate(()), tuple(config.data.optional_columns or ()))
    return list(_template_questions(table, list(range(table.rows))[: spec.rows], renderer, known=stub is not None))


def templates_for(
    config: Config, columns: Sequence[str], label: str = ""
) -> tuple[CompiledTemplate, CompiledTemplate | None]:
    """Return the run's templates for a file's columns: prompt and completion, None when the file has no such column.

    Raises DataError when a column of the prompt is missing.
    """
    if config.data.messages is not None:
        stub = renderer_of(config.data, columns, label).stub_template
        return stub, stub
    prompt = compile_template(config.data.prompt, columns, label)
    try:
        return prompt, compile_template(config.data.prompt_stub, columns)
    except DataError:
        return prompt, None  # a file without expected answers


def _template_questions(
    table: Table, rows: list[int], renderer: Renderer, *, known: bool = True
) -> Iterator[EvaluationQuestion]:
    """Yield a question for each row. known: whether the table has the expected answers."""
    needed = renderer.columns_needed
    cells_of = table.take(np.asarray(rows, dtype=np.int64), needed) if needed else iter([{}] * len(rows))
    for position, (row, cells) in enumerate(zip(rows, cells_of, strict=True)):
        filled = {name: "" if cell is None and name in renderer.optional else cell for name, cell in cells.items()}
        yield _question(position, row, filled, renderer, known)


def _conversation_questions(table: Table, rows: list[int], renderer: ChatRenderer) -> Iterator[EvaluationQuestion]:
    for position, (row, cells) in enumerate(zip(rows, table.take(rows, [renderer.column]), strict=True)):
        try:
            example = renderer.example(cells)
        except DataError as error:
            yield EvaluationQuestion(position, row, "", None, str(error))
        else:
            yield EvaluationQuestion(position, row, example.prompt, example.completion, turns=example.turns)


def _question(position: int, row: int, cells: TableRow, renderer: Renderer, known: bool) -> EvaluationQuestion:
    expected = _rendered(renderer.stub_template, cells)[0] if known else None
    prompt, error = _rendered(renderer.prompt_template, cells)
    inputs = {name: cells[name] for name in renderer.prompt_template.columns}
    return EvaluationQuestion(position, row, prompt or "", expected, error, inputs=inputs)


def _rendered(template: CompiledTemplate, cells: TableRow) -> tuple[str | None, str]:
    try:
        return template.render(cells), ""
    except DataError as error:
        return None, error.message


def read_probe_passages(checkpoint: str) -> list[str]:
    """Return the passages of the forgetting probe, which a model should still predict well after fine-tuning.

    checkpoint: the base model's name as in the settings. For the bundled demo model they are generated like its
    pretraining text; for any other one they are general text written for this project (assets/probe.json).
    """
    if checkpoint == DEMO_CHECKPOINT:
        return [text for text, _ in islice(documents(DEMO_SEED), DEMO_PASSAGES)]
    path = ASSETS / "probe.json"
    return [str(text) for text in json.loads(path.read_text(encoding="utf-8"))]

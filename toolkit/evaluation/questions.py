"""What an evaluation asks: the run's own test rows, the rows of a file, or a prompt set, in the form of training.

A row that can't be asked stays in the list with its reason. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from toolkit.config import Config
from toolkit.data.conversations import Turn
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import Renderer, Template, compile_template
from toolkit.data.table import Cells, Table, load_table
from toolkit.errors import DataError, RunError
from toolkit.evaluation.evaluation_dir import Evaluation, Spec, read_prompts, read_spec
from toolkit.runs.run_dir import RunDir, read_config


@dataclass(frozen=True)
class Question:
    """position: 0-based among the questions. row: 0-based in its table or set. expected: None when nobody knows.

    error: why it can't be asked, or "".  turns: the whole conversation, of which the last turn is asked for.
    """

    position: int
    row: int
    prompt: str
    expected: str | None
    error: str = ""
    turns: tuple[Turn, ...] = ()


def questions(evaluation: Evaluation) -> list[Question]:
    """All questions, at most as many as the spec wants. Raises ToolkitError: no rows, columns that do not fit."""
    spec, config = read_spec(evaluation), read_config(evaluation.run)
    if spec.source == "prompts":
        items = read_prompts(evaluation).items[: spec.rows]
        return [Question(i, i, item.prompt, item.expected) for i, item in enumerate(items)]
    found = _test_rows(evaluation.run, config, spec) if spec.source == "test" else _file(evaluation, config, spec)
    if not found:
        raise RunError("There is no row to ask.", "Give the run a test split, or choose a file.")
    return found


def test_rows(run: RunDir) -> int:
    """How many rows the run holds out."""
    return len(plan_split(load_table(run.source_path), read_config(run).data).test)


def _test_rows(run: RunDir, config: Config, spec: Spec) -> list[Question]:
    table = load_table(run.source_path)
    renderer = renderer_of(config.data, table.columns)
    rows = plan_split(table, config.data).test[: spec.rows]
    if isinstance(renderer, ChatRenderer):
        return list(_conversations(table, rows.tolist(), renderer))
    return list(_asked(table, rows.tolist(), renderer.prompt_template, renderer.stub_template))


def _file(evaluation: Evaluation, config: Config, spec: Spec) -> list[Question]:
    table = load_table(evaluation.data_path)
    if config.data.messages is not None:
        renderer = renderer_of(config.data, table.columns, table.label)
        return list(_conversations(table, list(range(table.rows))[: spec.rows], cast(ChatRenderer, renderer)))
    prompt, stub = templates_for(config, table.columns, table.label)
    return list(_asked(table, list(range(table.rows))[: spec.rows], prompt, stub))


def templates_for(config: Config, columns: Sequence[str], label: str = "") -> tuple[Template, Template | None]:
    """The run's templates over a file's columns; no completion template when the file has no such column.

    Raises DataError when the prompt's columns are not there.
    """
    if config.data.messages is not None:
        stub = renderer_of(config.data, columns, label).stub_template
        return stub, stub
    prompt = compile_template(config.data.prompt, columns, label)
    try:
        return prompt, compile_template(config.data.prompt_stub, columns)
    except DataError:
        return prompt, None  # a file of questions alone


def _asked(table: Table, rows: list[int], prompt: Template, stub: Template | None) -> Iterator[Question]:
    needed = tuple(dict.fromkeys(prompt.columns + (stub.columns if stub else ())))
    cells_of = table.take(np.asarray(rows, dtype=np.int64), needed) if needed else iter([{}] * len(rows))
    for position, (row, cells) in enumerate(zip(rows, cells_of, strict=True)):
        yield _question(position, row, cells, Renderer(prompt, stub or Template(())), bool(stub))


def _conversations(table: Table, rows: list[int], renderer: ChatRenderer) -> Iterator[Question]:
    for position, (row, cells) in enumerate(zip(rows, table.take(rows, [renderer.column]), strict=True)):
        try:
            example = renderer.example(cells)
        except DataError as error:
            yield Question(position, row, "", None, str(error))
        else:
            yield Question(position, row, example.prompt, example.completion, turns=example.turns)


def _question(position: int, row: int, cells: Cells, renderer: Renderer, known: bool) -> Question:
    expected = _rendered(renderer.stub_template, cells)[0] if known else None
    prompt, error = _rendered(renderer.prompt_template, cells)
    return Question(position, row, prompt or "", expected, error)


def _rendered(template: Template, cells: Cells) -> tuple[str | None, str]:
    try:
        return template.render(cells), ""
    except DataError as error:
        return None, error.message

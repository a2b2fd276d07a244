"""Rows of an evaluation that a compared model has seen in training, found by their content.

A row counts as seen if its input is the input of a training row, whatever their datasets, files or row numbers are.
Case, white space and Unicode forms make no difference, nor does the wording of the templates around the cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from toolkit.config import DataConfig
from toolkit.data.chat_messages import Message
from toolkit.data.conversations import format_conversation, parse_conversation
from toolkit.data.examples.renderers import ChatRenderer, renderer_of
from toolkit.data.examples.split import plan_split
from toolkit.data.examples.templates import Renderer
from toolkit.data.storage.bounded_tables import load_bounded_table
from toolkit.data.table import RowNumbers, Table, TableRow, load_table
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.runs.model_names import BASE, parse_model_name
from toolkit.runs.run_dir import RunDir, read_run_config, read_run_meta


def find_seen_rows(
    questions: Sequence[EvaluationQuestion], models: Sequence[str], run: RunDir
) -> dict[str, frozenset[int]]:
    """Return, by model, the positions of the questions whose input is in its training rows; only models with any.

    models: as an evaluation names them. run: any run of the same save_dir. The training rows of a run that another one
    continued count for both. Raises ToolkitError if the files of a run can't be read.
    """
    positions: dict[str, set[int]] = {}
    for question in questions:
        for key in _question_keys(question):
            positions.setdefault(key, set()).add(question.position)
    columns = next((tuple(question.inputs) for question in questions if question.inputs), ())
    by_content: dict[str, set[int]] = {}
    found = {}
    for model in models:
        seen: set[int] = set()
        for trained in _list_training_runs(run, model):
            content = _training_content(trained)
            if content not in by_content:
                keys = _training_keys(trained, columns)
                by_content[content] = set().union(*(positions[key] for key in keys if key in positions))
            seen |= by_content[content]
        if seen:
            found[model] = frozenset(seen)
    return found


def _list_training_runs(run: RunDir, model: str) -> Iterator[RunDir]:
    """Yield the run of a model and those that it continued, as far as they exist."""
    name = "" if model == BASE else parse_model_name(model).run
    visited: set[str] = set()
    while name and name not in visited:
        visited.add(name)
        trained = RunDir(run.path.parent / name)
        if not trained.source_path.exists():  # deleted since
            return
        yield trained
        name = str((read_run_meta(trained).get("start") or {}).get("run") or "")


def _training_content(run: RunDir) -> str:
    """Return a text that is equal for runs with the same table, templates and split, as the trials of a study are."""
    return f"{load_table(run.source_path).sha256} {read_run_config(run).data.model_dump_json()}"


def _question_keys(question: EvaluationQuestion) -> set[str]:
    keys = {_key([question.prompt]), _sorted_key(question.inputs.values()), _conversation_key(question.turns[:-1])}
    return keys - {""}


def _training_keys(run: RunDir, columns: Sequence[str]) -> Iterator[str]:
    """Yield the keys of every training row. columns: of the questions' prompt, which this run's table may have too."""
    table, data = load_bounded_table(run.source_path), read_run_config(run).data
    renderer = renderer_of(data, table.columns)
    rows = np.sort(plan_split(table, data).train)
    if isinstance(renderer, ChatRenderer):
        for row in table.take(rows, [renderer.column]):
            yield from _conversation_keys(parse_conversation(row[renderer.column] or ""))
        return
    known = tuple(columns) if set(columns) <= set(table.columns) else ()
    yield from _template_keys(table, rows, renderer, data, known)


def _template_keys(
    table: Table, rows: RowNumbers, renderer: Renderer, data: DataConfig, known: Sequence[str]
) -> Iterator[str]:
    own = renderer.prompt_template.columns
    optional = set(data.optional_columns or ())
    needed = list(dict.fromkeys((*own, *known)))
    for row in table.take(rows, needed) if needed else ():
        yield _sorted_key(row[name] for name in own)
        if known and set(known) != set(own):
            yield _sorted_key(row[name] for name in known)
        filled: TableRow = {name: "" if cell is None and name in optional else cell for name, cell in row.items()}
        yield _key([renderer.prompt_template.render(filled)])


def _conversation_keys(messages: Sequence[Message]) -> Iterator[str]:
    """Yield the key of what comes before each trained message."""
    for at, message in enumerate(messages):
        if message.learned:
            yield _conversation_key(messages[:at])
            yield _key([format_conversation(messages[:at])])


def _conversation_key(messages: Sequence[Message]) -> str:
    return _key([message.content for message in messages if message.role != "system"])


def _sorted_key(cells: Iterable[str | None]) -> str:
    """Return the key of a row's cells, whose order is that of a template and so of no importance."""
    return "\x1f".join(sorted(filter(None, map(_normalize, (cell or "" for cell in cells)))))


def _key(texts: Sequence[str]) -> str:
    return "\x1f".join(filter(None, map(_normalize, texts)))


def _normalize(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

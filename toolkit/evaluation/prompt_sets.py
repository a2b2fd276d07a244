"""Prompt sets: named lists of prompts, with expected answers where there are any, to be asked again and again.

A set is one JSON file in `<save_dir>/prompt_sets/`, named by its id. It is typed, pasted, or read from a table with the
columns prompt and (optionally) expected, or from the columns that are suggested to train on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.examples.templates import Renderer, make_renderer
from toolkit.data.table import Table, TableRow
from toolkit.errors import DataError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json
from toolkit.system.ids import is_valid_id, make_timed_id

MAX_SET_PROMPTS = 2_000  # more are a data set: evaluate a file then
MAX_PROMPT_CHARACTERS = 50_000
EXPECTED_COLUMN_NAMES = ("expected", "answer", "completion", "output", "response")


class PromptItem(BaseModel):
    """One prompt as the user writes it. expected: None when it is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    expected: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None


class PromptSet(BaseModel):
    """A named set. id: also the name of its file; "" until it is saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    name: Annotated[str, Field(min_length=1, max_length=100)]
    items: Annotated[tuple[PromptItem, ...], Field(min_length=1, max_length=MAX_SET_PROMPTS)]


def make_prompt_set(name: str, items: Iterable[tuple[str, str | None]], *, set_id: str = "") -> PromptSet:
    """Make a set from (prompt, expected) pairs. Raises DataError.

    Empty prompts are skipped; an empty expected answer counts as not known.
    """
    kept = [(prompt, expected or None) for prompt, expected in items if prompt and prompt.strip()]
    if not name.strip():
        raise DataError("The prompt set has no name.", "Enter a name.")
    if not kept:
        raise DataError("The prompt set has no prompts.", "Add at least one prompt.")
    if len(kept) > MAX_SET_PROMPTS:
        raise DataError(
            f"The set has {len(kept):,} prompts; the limit is {MAX_SET_PROMPTS:,}.", "Split it into several sets."
        )
    try:
        checked = tuple(PromptItem(prompt=prompt, expected=expected) for prompt, expected in kept)
        return PromptSet(id=set_id, name=name.strip()[:100], items=checked)
    except ValidationError as error:
        message = f"A prompt or an expected answer is longer than {MAX_PROMPT_CHARACTERS:,} characters."
        raise DataError(message, "Shorten it.") from error


def prompt_set_from_table(name: str, table: Table) -> PromptSet:
    """Make a set from the columns prompt and expected, else from the suggested prompt and completion of the table.

    A table with a single text column has prompts only. Raises DataError.
    """
    if table.rows > MAX_SET_PROMPTS:
        raise DataError(
            f"The file has {table.rows:,} rows; the limit of a prompt set is {MAX_SET_PROMPTS:,}.", "Shorten it."
        )
    renderer = _find_templates(table)
    rows = table.page(0, table.rows)
    return make_prompt_set(name, (_prompt_item(renderer, row) for row in rows))


def _find_templates(table: Table) -> Renderer:
    by_name = {column.strip().casefold(): f"{{{column}}}" for column in table.columns}
    if "prompt" in by_name:
        expected = next((by_name[one] for one in EXPECTED_COLUMN_NAMES if one in by_name), "")
        return make_renderer(by_name["prompt"], expected, table.columns)
    suggestion = suggest_for_table(table)
    if suggestion.kind == "pair" and suggestion.prompt:
        return make_renderer(suggestion.prompt, suggestion.completion, table.columns, optional=suggestion.optional)
    prompts = {prompt or completion for prompt, completion in suggestion.candidates} or {suggestion.completion}
    if len(prompts) != 1 or suggestion.kind == "conversations":
        message = f"It is not clear which column of {table.label} holds the prompts."
        raise DataError(message, "Name it prompt, and the column of the expected answers, if there is one, expected.")
    return make_renderer(prompts.pop(), "", table.columns)


def _prompt_item(renderer: Renderer, row: TableRow) -> tuple[str, str | None]:
    """Return (prompt, expected answer) of a row; a missing cell makes an empty prompt or an unknown answer."""
    prompt = renderer.prompt(row) if all(row[one] is not None for one in _required(renderer)) else ""
    stub = renderer.stub_template
    known = bool(stub.columns) and all(row[column] is not None for column in stub.columns)
    return prompt, stub.render(row) if known else None


def _required(renderer: Renderer) -> list[str]:
    return [column for column in renderer.prompt_template.columns if column not in renderer.optional]


def list_prompt_sets(save_dir: Path) -> list[PromptSet]:
    """Return all sets that can be read, sorted by name."""
    sets = []
    for path in sorted(prompt_sets_dir(save_dir).glob("*.json")):
        try:
            sets.append(PromptSet.model_validate(read_foreign_json(path, parts=MAX_LARGE_JSON_PARTS)))
        except (OSError, ValueError):
            continue  # damaged, or written by a newer version: the other sets are still useful
    return sorted(sets, key=lambda prompt_set: prompt_set.name.casefold())


def save_prompt_set(save_dir: Path, prompt_set: PromptSet) -> PromptSet:
    """Write a set and return it; a new set gets an id. Raises DataError."""
    saved = (
        prompt_set if is_valid_id(prompt_set.id) else prompt_set.model_copy(update={"id": make_timed_id(time.time())})
    )
    try:
        prompt_sets_dir(save_dir).mkdir(parents=True, exist_ok=True)
        durable_write(prompt_sets_dir(save_dir) / f"{saved.id}.json", saved.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(f"The prompt set can't be written: {error}.", "Free some space.") from error
    return saved


def delete_prompt_set(save_dir: Path, set_id: str) -> None:
    """Delete a set; do nothing when there is none with that id."""
    if is_valid_id(set_id):
        (prompt_sets_dir(save_dir) / f"{set_id}.json").unlink(missing_ok=True)


def prompt_sets_dir(save_dir: Path) -> Path:
    """Return the folder of the sets."""
    return save_dir / "prompt_sets"

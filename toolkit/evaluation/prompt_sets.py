"""Prompt sets: prompts that one asks again and again, with the expected answers where there are any.

A set is one JSON file in `<save_dir>/prompt_sets/`, named by its id; the name is for people. Made by typing, pasting or
from a table with the columns prompt and (optionally) expected. Knows no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.system.durable import durable_write
from toolkit.system.ids import is_valid_id, make_timed_id

MAX_SET_PROMPTS = 2_000
MAX_PROMPT_CHARACTERS = 50_000
PROMPT_COLUMN_NAMES = ("prompt", "question", "input", "instruction")
EXPECTED_COLUMN_NAMES = ("expected", "answer", "completion", "output", "response")


class PromptItem(BaseModel):
    """One prompt, as a user would write it. expected: None when nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
    expected: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None


class PromptSet(BaseModel):
    """A named set. id: also its file's name; "" until it is saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    name: Annotated[str, Field(min_length=1, max_length=100)]
    items: Annotated[tuple[PromptItem, ...], Field(min_length=1, max_length=MAX_SET_PROMPTS)]


def make_prompt_set(name: str, items: Iterable[tuple[str, str | None]], *, set_id: str = "") -> PromptSet:
    """A set from (prompt, expected) pairs: empty prompts are left out, an empty answer means none. Raises DataError."""
    kept = [(prompt, expected or None) for prompt, expected in items if prompt and prompt.strip()]
    if not name.strip():
        raise DataError("The prompt set has no name.", "Give it one.")
    if not kept:
        raise DataError("The prompt set has no prompt.", "Write at least one.")
    if len(kept) > MAX_SET_PROMPTS:
        raise DataError(f"The set has {len(kept):,} prompts; at most {MAX_SET_PROMPTS:,} fit.", "Split it.")
    try:
        return PromptSet(
            id=set_id, name=name.strip()[:100], items=tuple(PromptItem(prompt=p, expected=e) for p, e in kept)
        )  # fmt: skip
    except ValidationError as error:
        raise DataError(
            f"A prompt or an answer is longer than {MAX_PROMPT_CHARACTERS:,} characters.", "Cut it."
        ) from error


def prompt_set_from_table(name: str, table: Table) -> PromptSet:
    """From a table: its column "prompt" (or the first one), and "expected" if there is one. Raises DataError."""
    by_name = {column.strip().casefold(): column for column in table.columns}
    prompt = next((by_name[n] for n in PROMPT_COLUMN_NAMES if n in by_name), table.columns[0])
    expected = next((by_name[n] for n in EXPECTED_COLUMN_NAMES if n in by_name and by_name[n] != prompt), None)
    if table.rows > MAX_SET_PROMPTS:
        raise DataError(f"The file has {table.rows:,} rows; a set has at most {MAX_SET_PROMPTS:,}.", "Cut it.")
    rows = table.page(0, table.rows)
    return make_prompt_set(name, ((row[prompt] or "", row[expected] if expected else None) for row in rows))


def list_prompt_sets(save_dir: Path) -> list[PromptSet]:
    """All sets that can be read, by name."""
    found = []
    for path in sorted(prompt_sets_dir(save_dir).glob("*.json")):
        try:
            found.append(PromptSet.model_validate(json.loads(path.read_bytes())))
        except (OSError, ValueError):
            continue  # being written by another version, or damaged: the others are still of use
    return sorted(found, key=lambda one: one.name.casefold())


def save_prompt_set(save_dir: Path, new: PromptSet) -> PromptSet:
    """Write a set, whole; an id of its own is made for a new one. Raises DataError."""
    kept = new if is_valid_id(new.id) else new.model_copy(update={"id": make_timed_id(time.time())})
    try:
        prompt_sets_dir(save_dir).mkdir(parents=True, exist_ok=True)
        durable_write(prompt_sets_dir(save_dir) / f"{kept.id}.json", kept.model_dump_json(indent=1))
    except OSError as error:
        raise DataError(f"The prompt set can't be written: {error}.", "Free some space.") from error
    return kept


def delete_prompt_set(save_dir: Path, set_id: str) -> None:
    if is_valid_id(set_id):
        (prompt_sets_dir(save_dir) / f"{set_id}.json").unlink(missing_ok=True)


def prompt_sets_dir(save_dir: Path) -> Path:
    return save_dir / "prompt_sets"

"""OpenAI's `response_format`: an answer that is JSON, any object or one that follows a schema.

The tokens that may follow are computed by the package llguidance, which is optional. A schema is checked in a
process with limits (`check_schema.py`), so that none makes the engine compute for long or fill its memory.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from toolkit.errors import EngineError
from toolkit.system.paths import PROJECT_ROOT

PACKAGE, CHECKER = "llguidance", "toolkit.worker.constraints.check_schema"
CHECK_SECONDS = 60
"""A check ends after a few seconds of computing; this is for a busy machine."""
_CHECKING = threading.Lock()
ANY_OBJECT: dict[str, Any] = {"type": "object"}
MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH = 32_000, 50
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_items_in_row": 10_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
WHITESPACE = r"[ \n\t]{0,20}"
"""Between two parts. Without a limit a model may write spaces for ever."""


class JsonSchemaFormat(BaseModel):
    """A named schema. strict: accepted for both values, as a schema is always followed."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = ANY_OBJECT
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What an answer consists of."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.json_schema is not None) is not (self.type == "json_schema"):
            raise ValueError("The type 'json_schema', and no other, needs a 'json_schema'")
        return self

    @property
    def schema_text(self) -> str | None:
        """The schema as JSON, None for plain text."""
        if self.type == "text":
            return None
        return json.dumps(self.json_schema.schema_ if self.json_schema else ANY_OBJECT)


def build_grammar(schema: str) -> str:
    """Return the grammar of a schema. Raises EngineError: not installed, too large, or it can't be followed.

    The first time takes a process that checks it; call it where that may take seconds.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        message = f"'response_format' needs the package {PACKAGE}, which is not installed."
        raise EngineError(message, f"Run: pip install {PACKAGE}, and start the engine again.")
    if len(schema) > MAX_SCHEMA_CHARACTERS:
        message = f"The schema has {len(schema):,} characters, and {MAX_SCHEMA_CHARACTERS:,} are allowed."
        raise EngineError(message, "Shorten it.")
    if _measure_depth(json.loads(schema)) > MAX_SCHEMA_DEPTH:
        raise EngineError(f"The schema is nested more than {MAX_SCHEMA_DEPTH} levels deep.", "Make it flatter.")
    with _CHECKING:  # one at a time: a check takes a core
        return _check_grammar(schema)


@functools.lru_cache(maxsize=64)
def _check_grammar(schema: str) -> str:
    command = [sys.executable, "-m", CHECKER]
    try:
        done = subprocess.run(
            command, input=schema, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS, cwd=PROJECT_ROOT
        )
        reason, failed = done.stdout.strip(), done.returncode != 0
    except subprocess.TimeoutExpired:
        reason, failed = "", True
    if failed:
        raise EngineError("The schema can't be followed: it takes too long or too much memory.", "Make it simpler.")
    if reason:
        message = f"The schema can't be followed: {reason.splitlines()[0][:300]}"
        raise EngineError(message, "Change it; JSON Schema is supported in part.")
    return write_grammar(schema)


def write_grammar(schema: str) -> str:
    """Return the grammar of a schema, unchecked."""
    options = {"whitespace_pattern": WHITESPACE}
    grammar: str = importlib.import_module(PACKAGE).LLMatcher.grammar_from_json_schema(schema, overrides=options)
    return grammar


def _measure_depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_SCHEMA_DEPTH:
        depth += 1
        nested = [one for one in level if isinstance(one, (dict, list))]
        level = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
    return depth

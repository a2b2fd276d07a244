"""The prompt contract: what an adapter was asked and answered when it was saved, so that any copy can be checked.

`contract.json` lies in every adapter: templates and their hash, special tokens, generation settings, versions, the
identity of the base model, and golden prompts with token ids, greedy answers and log-probabilities.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir
from toolkit.system.foreign_files import MAX_LARGE_JSON_PARTS, read_foreign_json

CONTRACT_FILE = "contract.json"
CONTRACT_SCHEMA = 1
GOLDEN_PROMPTS = 8  # about 500 tokens to compare, and seconds to answer on a CPU
MAX_CONTRACT_BYTES = 32 * 2**20  # far above a real one: a file from elsewhere may be anything


class FrozenModel(BaseModel):
    """An immutable record that ignores the fields of newer versions."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


class PromptTemplates(FrozenModel):
    """`{column}` templates as written, and one hash over all fields.

    messages: the column of conversations, for runs on conversations; prompt and completion are empty then.
    """

    prompt: str
    completion: str
    sha256: str
    messages: str | None = None


class SpecialTokens(FrozenModel):
    """Token ids, None where the tokenizer has none.

    bos_added, eos_added: whether the tokenizer adds them to a plain text.
    """

    bos: int | None
    eos: int | None
    pad: int | None
    stops: tuple[int, ...]
    bos_added: bool
    eos_added: bool


class BaseIdentity(FrozenModel):
    """Hashes of config.json, and of the weights' index and headers: names, shapes, types and sizes, not values."""

    name: str
    config_sha256: str
    weights_sha256: str


class GoldenPrompt(FrozenModel):
    """One prompt with its greedy answer, measured on the model as it was trained.

    ids, text: the whole prompt, including the chat template. answer_ids: with the end token, if it was generated.
    logprobs: of each answer token (nats). margins: lead of the chosen token over the second one (nats).
    prompt_logprobs: of the last tokens of the prompt.
    """

    row: int
    split: Literal["test", "train"]
    cells: dict[str, str | None]
    prompt: str
    text: str
    expected: str
    ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    answer: str
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


class PromptContract(FrozenModel):
    """The contract of one adapter.

    made: "training", or "export" for an adapter that was trained before contracts existed. precision: of the base's
    weights in training. adapter_precision: of the adapter's, "" in contracts that did not record it. generation: the
    run's generation settings. versions: by library. rendered: the time that chat templates were given, None in
    contracts that did not record it.
    """

    schema_: Annotated[int, Field(alias="schema")] = CONTRACT_SCHEMA
    made: Literal["training", "export"] = "training"
    run: str
    template: PromptTemplates
    chat: bool
    chat_template_sha256: str | None
    special_tokens: SpecialTokens
    generation: dict[str, Any]
    versions: dict[str, str]
    base: BaseIdentity
    precision: str
    adapter_precision: str = ""
    quantized: bool
    rendered: datetime | None = None
    golden: tuple[GoldenPrompt, ...]

    def dump(self) -> str:
        """Return the content of contract.json."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False, separators=(",", ":"))


def sha256_hex(content: str | bytes) -> str:
    """Return the SHA-256 of bytes, or of text as UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def prompt_templates_of(config: Config) -> PromptTemplates:
    """Return the templates that a run uses."""
    messages = config.data.messages
    # a run on conversations never uses the templates in its settings
    prompt, completion = ("", "") if messages else (config.data.prompt, config.data.prompt_stub)
    digest = hash_templates(prompt, completion, messages)
    return PromptTemplates(prompt=prompt, completion=completion, sha256=digest, messages=messages)


def hash_templates(prompt: str, completion: str, messages: str | None = None) -> str:
    """Return one hash over the templates. They are joined as JSON, so that moving text between two changes it."""
    parts = [prompt, completion] if messages is None else [prompt, completion, messages]
    return sha256_hex(json.dumps(parts, ensure_ascii=False))


def read_contract(folder: Path) -> PromptContract:
    """Return the contract in `folder`. Raises RunError: missing, damaged, or written by a newer version."""
    path = folder / CONTRACT_FILE
    try:
        body = read_foreign_json(path, MAX_CONTRACT_BYTES, parts=MAX_LARGE_JSON_PARTS)
        if int(body["schema"]) > CONTRACT_SCHEMA:
            raise RunError(f"{path} was written by a newer version of the toolkit.", "Update the toolkit to use it.")
        return PromptContract.model_validate(body)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"The prompt contract in {folder} can't be read: {reason}.", "Export again.") from error


def read_reference_contract(run: RunDir) -> PromptContract | None:
    """Return the contract that exports are checked against, None when there is none yet.

    It is the adapter's own, else the one that an earlier export made. Raises RunError for a damaged one.
    """
    for folder in (run.adapter_dir, run.exports_dir):
        if (folder / CONTRACT_FILE).exists():
            return read_contract(folder)
    return None

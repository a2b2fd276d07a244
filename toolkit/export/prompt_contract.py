"""The prompt contract: what an adapter was asked and answered when it was saved, so that any copy can be held to it.

`contract.json` lies in every adapter: templates and their hashes, special tokens, settings of generation, versions,
the base model's identity, and golden prompts with token ids, greedy answers and log-probabilities. Knows no library:
`worker/answering/golden_prompts.py` fills it in, `worker/replay.py` plays an export against it, `certificate.py` judges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.runs.run_dir import RunDir

CONTRACT_FILE = "contract.json"
CONTRACT_SCHEMA = 1
GOLDEN_PROMPTS = 8
MAX_CONTRACT_BYTES = 32 * 2**20


class FrozenModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


class PromptTemplates(FrozenModel):
    """`{column}` templates as written, and one hash over both; messages: the column of conversations that stands in
    their place, both being empty then."""

    prompt: str
    completion: str
    sha256: str
    messages: str | None = None


class SpecialTokens(FrozenModel):
    """Ids, None where the tokenizer has none. `bos_added`, `eos_added`: what a plain text gets put around it."""

    bos: int | None
    eos: int | None
    pad: int | None
    stops: tuple[int, ...]
    bos_added: bool
    eos_added: bool


class BaseIdentity(FrozenModel):
    """Hashes of config.json, and of the weights' index and headers (names, shapes, types and sizes, not values)."""

    name: str
    config_sha256: str
    weights_sha256: str


class GoldenPrompt(FrozenModel):
    """One prompt with its greedy answer, measured on the model as it was trained.

    ids, text: the whole prompt, chat template included.  answer_ids: with the end token, where it came.
    logprobs: of each answer token.  margins: how far the chosen token led the next one.
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
    """made: "training", or "export" for an adapter older than contracts. precision: what the weights computed in."""

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
    quantized: bool
    golden: tuple[GoldenPrompt, ...]

    def dump(self) -> str:
        return json.dumps(self.model_dump(mode="json", by_alias=True), ensure_ascii=False, separators=(",", ":"))


def sha256_hex(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def prompt_templates_of(config: Config) -> PromptTemplates:
    messages = config.data.messages
    # what stands in the settings beside a column of conversations was never used
    prompt, completion = ("", "") if messages else (config.data.prompt, config.data.prompt_stub)
    digest = hash_templates(prompt, completion, messages)
    return PromptTemplates(prompt=prompt, completion=completion, sha256=digest, messages=messages)


def hash_templates(prompt: str, completion: str, messages: str | None = None) -> str:
    """One hash for all; none can borrow characters from another."""
    parts = [prompt, completion] if messages is None else [prompt, completion, messages]
    return sha256_hex(json.dumps(parts, ensure_ascii=False))


def read_contract(folder: Path) -> PromptContract:
    """The contract in `folder`. Raises RunError: none, damaged, or written by a newer version."""
    path = folder / CONTRACT_FILE
    try:
        if path.stat().st_size > MAX_CONTRACT_BYTES:
            raise ValueError(f"it is larger than {MAX_CONTRACT_BYTES // 2**20} MiB")
        body = json.loads(path.read_bytes())
        if int(body["schema"]) > CONTRACT_SCHEMA:
            raise RunError(f"{path} was written by a newer version.", "Update the toolkit to use it.")
        return PromptContract.model_validate(body)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"The prompt contract in {folder} can't be read: {reason}.", "Export again.") from error


def read_reference_contract(run: RunDir) -> PromptContract | None:
    """What exports of a run are held to: the adapter's own contract, else the one that an export made; None for none.

    Raises RunError for a damaged one.
    """
    places: Sequence[Path] = (run.adapter_dir, run.exports_dir)
    place = next((folder for folder in places if (folder / CONTRACT_FILE).exists()), None)
    return read_contract(place) if place is not None else None

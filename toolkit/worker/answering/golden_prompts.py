"""Make the prompt contract of a trained model: answer its golden prompts and measure the answers.

Everything is computed one prompt at a time and without padding, so that any other program can repeat the figures with a
plain call. `export/prompt_contract.py` describes the fields.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.examples.renderers import ChatRenderer
from toolkit.export.prompt_contract import (
    GOLDEN_PROMPTS,
    BaseIdentity,
    GoldenPrompt,
    PromptContract,
    SpecialTokens,
    prompt_templates_of,
    sha256_hex,
)
from toolkit.runs.events import EventReporter
from toolkit.worker.models.load import is_quantized, stop_token_ids
from toolkit.worker.tokens.encode import chat_templates_at
from toolkit.worker.tokens.examples import chat_enabled, encode_example_prompt
from toolkit.worker.tokens.prepared_rows import RowSource

CONTRACT_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")
MAX_GOLDEN_ANSWER_TOKENS = 64
"""Enough to notice a difference, and short enough to answer all prompts in seconds on a CPU."""
SCORED_PROMPT_TOKENS = 64
"""Tokens at the end of a prompt whose log-probabilities are recorded."""
logger = logging.getLogger(__name__)
GOLDEN_CANDIDATES = 4 * GOLDEN_PROMPTS
"""Rows to try: some have prompts that fill the context."""
LoadedModel: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class TokenLogProbs:
    """Natural log-probabilities of given tokens. margins: between the most and the second most likely token."""

    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


def make_contract(
    run_id: str,
    config: Config,
    model: LoadedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    folder: Path,
    *,
    made: str = "training",
) -> PromptContract:
    """Return the contract of `model` in its present state. folder: of its base model. Raises what a library raises."""
    was_training, now = model.training, datetime.now()  # local time, as chat templates write it
    model.eval()
    try:
        with chat_templates_at(now):
            golden = tuple(_answer_golden_prompts(config, model, tokenizer, source))
    finally:
        model.train(was_training)
    return PromptContract(
        made=made,
        run=run_id,
        template=prompt_templates_of(config),
        chat=chat_enabled(config, tokenizer),
        chat_template_sha256=chat_template_hash(tokenizer),
        special_tokens=special_tokens(model, tokenizer),
        generation=config.inference.model_dump(mode="json"),
        versions=read_contract_versions(),
        base=read_base_identity(folder, str(config.model.hf_model_ckpt)),
        precision=str(_base_model(model).dtype).removeprefix("torch."),
        adapter_precision=read_adapter_precision(model),
        quantized=is_quantized(_base_model(model)),
        rendered=now,
        golden=golden,
    )


def contract_text(
    run_id: str,
    config: Config,
    model: LoadedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: RowSource,
    folder: Path,
    *,
    report_event: EventReporter,
) -> str | None:
    """Return the contract as it is saved, or None if it can't be made.

    A failure is reported as a warning and not raised: it must not prevent the adapter from being saved.
    """
    try:
        return make_contract(run_id, config, model, tokenizer, source, folder).dump()
    except Exception as error:
        logger.exception("prompt contract")
        reason = f"{type(error).__name__}: {error}"
        message = f"The golden prompts could not be answered ({reason}). The next export tries again."
        report_event("warning", message=message, unanswered=True)
        return None


def _answer_golden_prompts(
    config: Config, model: LoadedModel, tokenizer: PreTrainedTokenizerBase, source: RowSource
) -> Iterator[GoldenPrompt]:
    ends = stop_token_ids(model, tokenizer)
    wanted = min(config.inference.max_new_tokens or MAX_GOLDEN_ANSWER_TOKENS, MAX_GOLDEN_ANSWER_TOKENS)
    positions = getattr(_base_model(model).config.get_text_config(), "max_position_embeddings", None)
    context = positions if isinstance(positions, int) else 2**31
    answered = 0
    renderer = source.renderer
    columns = (renderer.column,) if isinstance(renderer, ChatRenderer) else renderer.prompt_template.columns
    for row, split in _candidates(source):
        cells = next(iter(source.table.take(np.array([row]), source.renderer.columns_needed)))
        example = source.renderer.example(cells)
        text, ids = encode_example_prompt(config, tokenizer, example.prompt, example.turns)
        limit = min(wanted, context - len(ids))
        if limit < 1 or not ids:
            continue
        answer = generate_greedy_ids(model, ids, ends, limit, tokenizer.pad_token_id)
        yield GoldenPrompt(
            row=row,
            split=split,
            cells={name: cells[name] or "" for name in columns},
            prompt=example.prompt,
            text=text,
            expected=example.completion,
            ids=ids,
            answer_ids=answer,
            answer=tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            **vars(measure_token_logprobs(model, ids, answer)),
        )
        answered += 1
        if answered == GOLDEN_PROMPTS:
            return


def _candidates(source: RowSource) -> Iterator[tuple[int, str]]:
    """Yield (row, split) of rows to try, spread over the test set, then over the training set."""
    for split, rows in (("test", source.plan.test), ("train", source.plan.train)):
        if len(rows):
            chosen = np.unique(np.linspace(0, len(rows) - 1, min(GOLDEN_CANDIDATES, len(rows))).round().astype(int))
            # every fourth candidate first, so that the prompts are spread even if the first ones are all accepted
            order = [chosen[i] for start in range(4) for i in range(start, len(chosen), 4)]
            yield from ((int(rows[i]), split) for i in order)


def generate_greedy_ids(
    model: LoadedModel, ids: Sequence[int], ends: Sequence[int], limit: int, pad: int | None
) -> tuple[int, ...]:
    """Return the greedy continuation of `ids`, at most `limit` tokens, including the end token if it occurs."""
    prompt = torch.tensor([list(ids)], device=model.device)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, use_cache=True, eos_token_id=list(ends) or None, pad_token_id=pad
    )
    with torch.no_grad():
        output = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return tuple(output[0, len(ids) :].tolist())


def measure_token_logprobs(model: LoadedModel, ids: Sequence[int], answer: Sequence[int]) -> TokenLogProbs:
    """Return the log-probabilities of `answer` after `ids`, and of the last SCORED_PROMPT_TOKENS tokens of `ids`."""
    both = torch.tensor([[*ids, *answer]], device=model.device)
    tail = min(SCORED_PROMPT_TOKENS, len(ids) - 1)
    keep = len(answer) + tail + 1
    with torch.no_grad():
        logits = model(input_ids=both, attention_mask=torch.ones_like(both), **_logits_to_keep(model, keep)).logits
    scores = torch.log_softmax(logits[0, -keep:-1].float(), dim=-1)
    given = scores.gather(1, both[0, -(keep - 1) :, None])[:, 0].tolist()
    best = scores[tail:].topk(2, dim=-1).values
    margins = (best[:, 0] - best[:, 1]).tolist()
    return TokenLogProbs(_rounded(given[tail:]), _rounded(margins), _rounded(given[:tail]))


def _logits_to_keep(model: LoadedModel, last: int) -> dict[str, Any]:
    # the logits of all positions of a long prompt would take gigabytes with a large vocabulary
    supported = "logits_to_keep" in inspect.signature(_base_model(model).forward).parameters
    return {"logits_to_keep": last} if supported else {}


def _base_model(model: LoadedModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def read_adapter_precision(model: LoadedModel) -> str:
    """Return the precision of the adapter's weights, several joined by "and"; "" for a model without an adapter."""
    dtypes = {weight.dtype for name, weight in model.named_parameters() if ".lora_" in name}
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)


def chat_template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of the chat template, or of all named templates in any order; None if there is none."""
    template = tokenizer.chat_template
    if not template:
        return None
    return sha256_hex(str(sorted(template.items()) if isinstance(template, dict) else template))


def special_tokens(model: LoadedModel, tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Return which special tokens a plain call of the tokenizer adds, and which tokens end an answer."""
    probe = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    added = probe != bare
    return SpecialTokens(
        bos=bos,
        eos=eos,
        pad=tokenizer.pad_token_id,
        stops=tuple(stop_token_ids(model, tokenizer)),
        bos_added=added and bool(probe) and probe[0] == bos,
        eos_added=added and bool(probe) and probe[-1] == eos,
    )


def read_base_identity(folder: Path, name: str) -> BaseIdentity:
    """Return the identity of the base model in `folder`, from its config and the headers of its weight files."""
    parts = [path.read_bytes() for path in sorted(folder.glob("*.safetensors.index.json"))]
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), 100_000_000))
        parts.append(f"{path.name}:{path.stat().st_size}:".encode() + header)
    return BaseIdentity(
        name=name,
        config_sha256=sha256_hex((folder / "config.json").read_bytes()),
        weights_sha256=sha256_hex(b"\n".join(parts)),
    )


def read_contract_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that influence an answer."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in CONTRACT_LIBRARIES},
    }

"""Fills in the prompt contract of a model that was just trained: golden prompts asked, answered and measured.

Everything is computed one prompt at a time, without padding: the figures are those of a plain call, which any other
program can repeat. What the fields mean is `export/prompt_contract.py`'s.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.tokens.examples import chat_enabled, encode_example_prompt
from toolkit.worker.tokens.prepared_rows import RowSource

CONTRACT_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors")
MAX_GOLDEN_ANSWER_TOKENS = 64
SCORED_PROMPT_TOKENS = 64
logger = logging.getLogger(__name__)
GOLDEN_CANDIDATES = 4 * GOLDEN_PROMPTS
LoadedModel: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-probabilities of given tokens, natural logarithm. margins: lead of the likeliest token over the second."""

    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


def make_contract(
    run_id: str, config: Config, model: LoadedModel, tokenizer: PreTrainedTokenizerBase, source: RowSource, folder: Path,
    *, made: str = "training",
) -> PromptContract:  # fmt: skip
    """The contract of `model` as it is now. folder: where its base came from. Raises what a library raises."""
    was_training = model.training
    model.eval()
    try:
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
        quantized=bool(config.model.quantize),
        golden=golden,
    )


def contract_text(
    run_id: str, config: Config, model: LoadedModel, tokenizer: PreTrainedTokenizerBase, source: RowSource, folder: Path,
    *, tell: Callable[..., None],
) -> str | None:  # fmt: skip
    """The contract as it is saved. The adapter is worth more: what goes wrong here is a warning, and None."""
    try:
        return make_contract(run_id, config, model, tokenizer, source, folder).dump()
    except Exception as error:
        logger.exception("prompt contract")
        message = f"The golden prompts could not be answered ({type(error).__name__}: {error}). An export tries again."
        tell("warning", message=message)
        return None


def _answer_golden_prompts(
    config: Config, model: LoadedModel, tokenizer: PreTrainedTokenizerBase, source: RowSource
) -> Iterator[GoldenPrompt]:
    ends = stop_token_ids(model, tokenizer)
    wanted = min(config.inference.max_new_tokens or MAX_GOLDEN_ANSWER_TOKENS, MAX_GOLDEN_ANSWER_TOKENS)
    positions = getattr(_base_model(model).config.get_text_config(), "max_position_embeddings", None)
    room = positions if isinstance(positions, int) else 2**31
    found = 0
    renderer = source.renderer
    columns = (renderer.column,) if isinstance(renderer, ChatRenderer) else renderer.prompt_template.columns
    for row, split in _candidates(source):
        cells = next(iter(source.table.take(np.array([row]), source.renderer.columns_needed)))
        example = source.renderer.example(cells)
        text, ids = encode_example_prompt(config, tokenizer, example.prompt, example.turns)
        limit = min(wanted, room - len(ids))
        if limit < 1 or not ids:
            continue
        answer = generate_greedy_ids(model, ids, ends, limit, tokenizer.pad_token_id)
        yield GoldenPrompt(
            row=row, split=split, cells={name: cells[name] for name in columns}, prompt=example.prompt, text=text,
            expected=example.completion, ids=ids, answer_ids=answer,
            answer=tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            **vars(measure_token_logprobs(model, ids, answer)),
        )  # fmt: skip
        found += 1
        if found == GOLDEN_PROMPTS:
            return


def _candidates(source: RowSource) -> Iterator[tuple[int, str]]:
    """Rows to try, spread over the test split, then over the training rows."""
    for split, rows in (("test", source.plan.test), ("train", source.plan.train)):
        if len(rows):
            chosen = np.unique(np.linspace(0, len(rows) - 1, min(GOLDEN_CANDIDATES, len(rows))).round().astype(int))
            # every fourth first: the eight that usually serve are spread as well
            order = [chosen[i] for start in range(4) for i in range(start, len(chosen), 4)]
            yield from ((int(rows[i]), split) for i in order)


def generate_greedy_ids(
    model: LoadedModel, ids: Sequence[int], ends: Sequence[int], limit: int, pad: int | None
) -> tuple[int, ...]:
    """The likeliest continuation, at most `limit` tokens, with the end token where one came."""
    given = torch.tensor([list(ids)], device=model.device)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=limit, use_cache=True, eos_token_id=list(ends) or None, pad_token_id=pad
    )
    with torch.no_grad():
        made = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=settings)
    return tuple(made[0, len(ids) :].tolist())


def measure_token_logprobs(model: LoadedModel, ids: Sequence[int], answer: Sequence[int]) -> TokenLogProbs:
    """What the model gives to `answer` after `ids`, and to the last PROMPT_TAIL tokens of `ids` itself."""
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
    # all positions of a long prompt times a large vocabulary would be gigabytes
    able = "logits_to_keep" in inspect.signature(_base_model(model).forward).parameters
    return {"logits_to_keep": last} if able else {}


def _base_model(model: LoadedModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)


def chat_template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    return sha256_hex(str(tokenizer.chat_template)) if tokenizer.chat_template else None


def special_tokens(model: LoadedModel, tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """The policy that a plain call of the tokenizer follows, and the tokens that end an answer."""
    probe = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    added = probe != bare
    return SpecialTokens(
        bos=bos, eos=eos, pad=tokenizer.pad_token_id, stops=tuple(stop_token_ids(model, tokenizer)),
        bos_added=added and bool(probe) and probe[0] == bos, eos_added=added and bool(probe) and probe[-1] == eos,
    )  # fmt: skip


def read_base_identity(folder: Path, name: str) -> BaseIdentity:
    """Of the base model in `folder`; reads headers, not weights."""
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
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in CONTRACT_LIBRARIES},
    }

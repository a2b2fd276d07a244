"""Does it answer right? Greedy answers of base and adapter to held-out prompts, compared with what was expected.

Both are asked with exactly the prompt of training, in the same left-padded batches. Knows no trainer and no event.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from toolkit.config import Config
from toolkit.data.conversations import Message
from toolkit.runs.run_dir import RunDir
from toolkit.system.durable import durable_write
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.process.stop import StopSignal
from toolkit.worker.tokens.examples import encode_example_prompt

MAX_HELD_OUT_ROWS = 200
MAX_HELD_OUT_SECONDS = 300.0
GREEDY_BATCH_ROWS = 32
ANSWER_SLACK_TOKENS = 16
"""Tokens beyond the longest expected answer: what is longer can't match, and a base model may ramble for ever."""


@dataclass(frozen=True)
class HeldOutRow:
    """A held-out row: its 0-based number in the run's table, what is asked, and what should come. turns: the whole
    conversation where the row is one."""

    row: int
    prompt: str
    expected: str
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Prediction:
    row: int
    prompt: str
    expected: str
    base: str
    adapter: str


def answer_held_out_rows(
    config: Config,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[HeldOutRow],
    stop: StopSignal,
) -> list[Prediction]:
    """Answers of both models; fewer than questions when MAX_SECONDS are over. Raises StopAsked."""
    model.eval()
    found: list[Prediction] = []
    begin = time.monotonic()
    for start in range(0, len(questions), GREEDY_BATCH_ROWS):
        if found and time.monotonic() - begin > MAX_HELD_OUT_SECONDS:
            break
        batch = questions[start : start + GREEDY_BATCH_ROWS]
        prompts = [encode_example_prompt(config, tokenizer, asked.prompt, asked.turns)[1] for asked in batch]
        longest = max(len(tokenizer(q.expected, add_special_tokens=False)["input_ids"]) for q in batch)
        adapted = generate_greedy_texts(model, tokenizer, prompts, longest + ANSWER_SLACK_TOKENS, stop)
        with model.disable_adapter():
            plain = generate_greedy_texts(model, tokenizer, prompts, longest + ANSWER_SLACK_TOKENS, stop)
        found += [
            Prediction(q.row, q.prompt, q.expected, base, adapter)
            for q, base, adapter in zip(batch, plain, adapted, strict=True)
        ]
    return found


@dataclass(frozen=True)
class GreedyAnswer:
    """An answer. tokens: how many, the end among them. cut: the token limit ended it, not the model."""

    text: str
    tokens: int
    cut: bool


def generate_greedy_texts(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: StopSignal,
) -> list[str]:
    """Greedy continuations, without special tokens. Raises StopAsked between two tokens."""
    return [said.text for said in generate_greedy_answers(model, tokenizer, prompts, max_new_tokens, stop)]


def generate_greedy_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: StopSignal,
) -> list[GreedyAnswer]:
    """Like `answers`, with how each one ended."""
    width = max(len(ids) for ids in prompts)
    padding = [[tokenizer.pad_token_id] * (width - len(ids)) for ids in prompts]
    ids = torch.tensor([[*pad, *ids] for pad, ids in zip(padding, prompts, strict=True)], device=model.device)
    mask = torch.tensor([[0] * len(pad) + [1] * (width - len(pad)) for pad in padding], device=model.device)
    ends = stop_token_ids(model, tokenizer)
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
    )
    # no inference mode: what a layer keeps from one forward to the next must still be good for training
    with torch.no_grad():
        made = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=greedy, stopping_criteria=[_StopRequested(stop)]
        )
    texts = tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
    lengths = [_answer_length(row, ends) for row in made[:, width:].tolist()]
    return [GreedyAnswer(text, abs(n), n < 0) for text, n in zip(texts, lengths, strict=True)]


def _answer_length(ids: Sequence[int], ends: Sequence[int]) -> int:
    """Tokens up to the first end; negative when none came."""
    return next((at + 1 for at, token in enumerate(ids) if token in ends), -len(ids))


def score_exact_match(predictions: Sequence[Prediction]) -> dict[str, float | int]:
    """rows, and the shares 0 .. 1 of answers that equal the expected one, outer white space aside."""

    count = len(predictions)
    adapter = sum(item.adapter.strip() == item.expected.strip() for item in predictions)
    base = sum(item.base.strip() == item.expected.strip() for item in predictions)
    return {"rows": count, "exact_match": adapter / count, "exact_match_base": base / count}


def write_predictions(run: RunDir, predictions: Sequence[Prediction]) -> None:
    """evaluation/predictions.jsonl: one object a line {row, prompt, expected, base, adapter}."""
    run.evaluation_dir.mkdir(exist_ok=True)
    durable_write(run.evaluation_dir / "predictions.jsonl", "".join(_prediction_lines(predictions)))


def _prediction_lines(predictions: Sequence[Prediction]) -> Iterator[str]:
    return (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in predictions)


class _StopRequested(StoppingCriteria):
    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._stop.raise_if_requested()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

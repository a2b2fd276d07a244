"""Greedy answers of the base model and the adapter to test rows, compared with the expected answers.

Both models get exactly the prompts of training, in the same left-padded batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from toolkit.config import Config
from toolkit.evaluation.predictions import Prediction
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.models.untouched_base import untouched_base
from toolkit.worker.process.stop import StopSignal
from toolkit.worker.tokens.answer_header import find_answer_header, without_answer_header
from toolkit.worker.tokens.examples import encode_example_prompt

MAX_HELD_OUT_ROWS = 200
"""Test rows that are answered at the end of a run; a full evaluation is started on the Evaluate page."""
MAX_HELD_OUT_SECONDS = 300.0
"""After this time no further batch is started, so that a run ends soon after its training."""
GREEDY_BATCH_ROWS = 32
ANSWER_SLACK_TOKENS = 16
"""Tokens beyond the longest expected answer: a longer answer can't match, and a base model may not stop by itself."""


def answer_held_out_rows(
    config: Config,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[EvaluationQuestion],
    stop: StopSignal,
) -> list[Prediction]:
    """Return the answers of both models, for fewer rows than given after MAX_HELD_OUT_SECONDS.

    Raises StopRequested: the run was stopped.
    """
    model.eval()
    predictions: list[Prediction] = []
    begin = time.monotonic()
    for start in range(0, len(questions), GREEDY_BATCH_ROWS):
        if predictions and time.monotonic() - begin > MAX_HELD_OUT_SECONDS:
            break
        batch = questions[start : start + GREEDY_BATCH_ROWS]
        prompts = [encode_example_prompt(config, tokenizer, row.prompt, row.turns)[1] for row in batch]
        expected = [row.expected or "" for row in batch]
        longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in expected)
        adapter_texts = generate_greedy_texts(model, tokenizer, prompts, longest + ANSWER_SLACK_TOKENS, stop)
        with untouched_base(model):
            base_texts = generate_greedy_texts(model, tokenizer, prompts, longest + ANSWER_SLACK_TOKENS, stop)
        predictions += [
            Prediction(row.row, row.prompt, wanted, base, adapter)
            for row, wanted, base, adapter in zip(batch, expected, base_texts, adapter_texts, strict=True)
        ]
    return predictions


@dataclass(frozen=True)
class GreedyAnswer:
    """An answer. tokens: their number, including the end token. cut: whether the token limit ended it."""

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
    """Return greedy continuations without special tokens. Raises StopRequested between two tokens."""
    return [answer.text for answer in generate_greedy_answers(model, tokenizer, prompts, max_new_tokens, stop)]


def generate_greedy_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: StopSignal,
) -> list[GreedyAnswer]:
    """Return greedy answers with their lengths, header included. Raises StopRequested between two tokens."""
    width = max(len(ids) for ids in prompts)
    padding = [[tokenizer.pad_token_id] * (width - len(ids)) for ids in prompts]
    ids = torch.tensor([[*pad, *ids] for pad, ids in zip(padding, prompts, strict=True)], device=model.device)
    mask = torch.tensor([[0] * len(pad) + [1] * (width - len(pad)) for pad in padding], device=model.device)
    ends = stop_token_ids(model, tokenizer)
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens + _room_for_header(model, tokenizer, width + max_new_tokens),
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
    )
    # not inference mode: tensors that a layer keeps between forward passes must remain usable for training
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=greedy, stopping_criteria=[_StopRequested(stop)]
        )
    generated = output[:, width:].tolist()
    answers = [without_answer_header(tokenizer, row) for row in generated]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    lengths = [_answer_length(row, ends) for row in generated]
    return [GreedyAnswer(text, abs(n), n < 0) for text, n in zip(texts, lengths, strict=True)]


def _room_for_header(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, used: int) -> int:
    """Return the tokens of the header before an answer, as far as they fit into the context next to `used` tokens."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    left = positions - used if isinstance(positions, int) else used
    return max(0, min(len(find_answer_header(tokenizer)), left))


def _answer_length(ids: Sequence[int], ends: Sequence[int]) -> int:
    """Return the number of tokens up to the first end token, or minus the number of all tokens if there is none."""
    return next((at + 1 for at, token in enumerate(ids) if token in ends), -len(ids))


class _StopRequested(StoppingCriteria):
    """Stopping criterion that raises StopRequested when the run should stop."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._stop.raise_if_requested()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

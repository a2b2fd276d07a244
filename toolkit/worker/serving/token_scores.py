"""Log-probabilities of tokens: of an answer while it is generated, and of an expected answer in a single pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.worker.serving.text_stream import TokenScore


class LogitsRecorder:
    """Record the logits of the last position of each forward pass on this thread. Use it as a context manager."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, alternatives: int | None) -> None:
        self._tokenizer, self._alternatives = tokenizer, alternatives
        self._thread = threading.get_ident()  # other answers share the model, each on its own thread
        self._logits: torch.Tensor | None = None
        self._hook = model.register_forward_hook(self._record_logits) if alternatives is not None else None

    def __enter__(self) -> LogitsRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def score_chosen_token(self, token: int) -> TokenScore | None:
        """Return the score of the token that was just chosen, or None if scores were not requested."""
        if self._alternatives is None or self._logits is None:
            return None
        return score_token(self._tokenizer, self._logits, token, self._alternatives)

    def _record_logits(self, model: Any, arguments: Any, output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._logits = output.logits[0, -1]


def score_token(tokenizer: PreTrainedTokenizerBase, logits: torch.Tensor, token: int, alternatives: int) -> TokenScore:
    """Return the score of a token with its most likely alternatives. logits: of one position, (vocabulary,)."""
    scores = torch.log_softmax(logits.float(), dim=-1)
    top: tuple[tuple[str, float], ...] = ()
    if alternatives:
        best = scores.topk(min(alternatives, scores.numel()))
        values, ids = best.values.tolist(), best.indices.tolist()
        top = tuple((_text(tokenizer, other), value) for other, value in zip(ids, values, strict=True))
    return TokenScore(_text(tokenizer, token), float(scores[token]), top)


def score_given_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    completion_start: int,
    alternatives: int,
) -> list[TokenScore]:
    """Return the scores of ids[completion_start:], each given all ids before it, in one forward pass."""
    both = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=both, attention_mask=torch.ones_like(both)).logits[0]
    return [score_token(tokenizer, logits[at - 1], ids[at], alternatives) for at in range(completion_start, len(ids))]


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))

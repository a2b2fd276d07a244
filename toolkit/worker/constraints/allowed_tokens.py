"""Decoding that a grammar constrains: before each token all others than the allowed ones are ruled out."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from toolkit.errors import EngineError
from toolkit.worker.constraints.response_format import LIMITS, PACKAGE

_PREPARED: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], Any]] = weakref.WeakKeyDictionary()
"""Tokenizer -> ends of an answer -> the same tokenizer for the package. Preparing it takes about a second."""


class AllowedTokens(LogitsProcessor):
    """Rule out the tokens that the grammar does not allow. ends: tokens that end an answer. prompt: its length."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, grammar: str, ends: Sequence[int], prompt: int) -> None:
        library = importlib.import_module(PACKAGE)
        prepared = _prepare_tokenizer(tokenizer, tuple(sorted(ends)))
        self._matcher = library.LLMatcher(prepared, grammar, log_level=0, limits=library.LLParserLimits(**LIMITS))
        self._read = prompt
        self._check()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = input_ids[0, self._read :].tolist()
        self._read += len(chosen)
        if chosen:
            self._matcher.consume_tokens(chosen)
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        bits = np.unpackbits(mask, bitorder="little")[: scores.shape[-1]].astype(bool)
        allowed = torch.zeros(scores.shape[-1], dtype=torch.bool)
        allowed[: len(bits)] = torch.from_numpy(bits)
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().strip().splitlines()[:1]
            message = f"The schema can't be followed further: {''.join(reason)[:300]}"
            raise EngineError(message, "Make the schema simpler.")


def _prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, ends: tuple[int, ...]) -> Any:
    prepared = _PREPARED.setdefault(tokenizer, {})
    if ends not in prepared:
        module = importlib.import_module(f"{PACKAGE}.hf")
        try:
            prepared[ends] = module.from_tokenizer(tokenizer, eos_token=list(ends) or None)
        except ValueError as error:
            message = f"{PACKAGE} can't read this model's tokenizer: {str(error)[:300]}"
            raise EngineError(message, "Ask without 'response_format'.") from error
    return prepared[ends]

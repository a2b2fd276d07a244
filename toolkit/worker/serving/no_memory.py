"""Running out of memory in the middle of an answer, in words; the engine lives on."""

from __future__ import annotations

from typing import Any

import torch

from toolkit.worker.serving.request_models import RequestError

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""GPU and CPU say it differently: the last two are torch's CPU allocator, on Linux and on Windows."""


def is_no_memory(error: BaseException | None) -> bool:
    """Return whether an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)


class explain_out_of_memory:
    """Turns what torch raises without memory into a RequestError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not is_no_memory(error):
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = "The memory is not enough for this prompt and answer."
        hint = "Shorten the prompt, lower max_new_tokens, or end other programs that use this memory."
        raise RequestError(message, hint, status=503, code="out_of_memory") from error

"""Running out of memory in the middle of an answer, in words; the engine lives on."""

from __future__ import annotations

from typing import Any

import torch

from toolkit.worker.payload import RequestError


class memory_explained:
    """Turns what torch raises without memory into a RequestError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        text = str(error).lower()
        full = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
        if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and full):
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = "The memory is not enough for this prompt and answer."
        hint = "Shorten the prompt, lower max_new_tokens, or end other programs that use this memory."
        raise RequestError(message, hint, status=503, code="out_of_memory") from error

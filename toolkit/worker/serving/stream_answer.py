"""One answer: token ids in, pieces of text out, with its figures at the end.

The decoding is `model.generate` itself; a stopping criterion listens to every token and hands text on a few dozen
times a second, so that the listener costs next to nothing and an answer nobody wants ends within a token. Knows no
adapter, no queue and no HTTP.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from toolkit.config import InferenceConfig
from toolkit.worker.models import library_arguments
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.serving.guard import explain_out_of_memory
from toolkit.worker.serving.request_models import ENGINE_SEED_LIMIT, RequestError
from toolkit.worker.serving.text_stream import TextPiece, TextStream, TokenScore
from toolkit.worker.serving.token_scores import LogitsRecorder

FLUSH_SECONDS = 0.03
"""Pause between two pieces: a reader sees a steady stream, and the server's thread rarely takes the interpreter."""

SLICE_SECONDS = 0.2
"""How long an answer computes while others wait for the model."""
MIN_SLICE_PER_SWITCH = 5
"""A slice lasts at least so many times what switching to its adapter took."""

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerationRequest:
    """What is asked: `text` is the exact prompt, `ids` its tokens. received: time.perf_counter() at arrival.

    alternatives: how many likely tokens to tell beside each one; None tells no figures of tokens at all.
    """

    model: str
    text: str
    ids: list[int]
    settings: InferenceConfig
    received: float
    seed: int | None = None
    stops: tuple[str, ...] = ()
    alternatives: int | None = None


@dataclass(frozen=True)
class GeneratedAnswer:
    """ttft_s: seconds from arrival to the first token, waiting included. tokens_per_second: of the tokens after it,
    while it computed.

    notice: what the asker should know about how it ended, or "".
    """

    text: str
    prompt: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    tokens_per_second: float
    finish_reason: FinishReason
    seed: int
    notice: str = ""
    tokens: tuple[TokenScore, ...] = ()


class YieldPoint:
    """Between two tokens: lets other answers compute, and goes on as if nothing had been. The default never does."""

    def wanted(self) -> bool:
        return False

    def take(self) -> None:
        """Returns when it is this answer's turn again."""


class TokenListener(StoppingCriteria):
    """Hears every new token, emits pieces of text, and ends the answer when it is cancelled or a stop text came."""

    def __init__(
        self,
        stream: TextStream,
        ends: set[int],
        emit: Callable[[TextPiece], None],
        cancelled: threading.Event,
        watch: LogitsRecorder,
        pause: YieldPoint,
    ) -> None:
        self.stream, self._ends, self._emit, self._cancelled = stream, ends, emit, cancelled
        self._watch, self._pause = watch, pause
        self.count, self.first_at, self.last_at, self.paused = 0, 0.0, 0.0, 0.0
        self.tokens: list[TokenScore] = []
        self._told = 0
        self._slice = (time.perf_counter(), SLICE_SECONDS)  # when it began, how long it lasts
        self.ended = False
        self._pending: list[int] = []
        self._flushed_at = 0.0
        self._verdicts: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self._verdicts is None:
            shape, device = (input_ids.shape[0],), input_ids.device
            self._verdicts = (
                torch.zeros(shape, dtype=torch.bool, device=device),
                torch.ones(shape, dtype=torch.bool, device=device),
            )
        return self._verdicts[int(self._handle_token(int(input_ids[0, -1])))]

    def _handle_token(self, token: int) -> bool:
        if self.ended or self.stream.stopped or self._cancelled.is_set():
            return True
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.count += 1
        if token in self._ends:
            self.ended = True
            return True
        figures = self._watch.score_chosen_token(token)
        if figures is not None:
            self.tokens.append(figures)
        self._pending.append(token)
        if self.last_at - self._flushed_at >= FLUSH_SECONDS:
            piece = self.stream.push(self._pending)
            self._pending = []
            if piece:  # else the next token may complete a character: it does not wait
                self._flushed_at = self.last_at
                self._send(piece)
        if self.last_at - self._slice[0] > self._slice[1] and self._pause.wanted():
            self._yield_turn()
        return self.stream.stopped or self._cancelled.is_set()

    def _yield_turn(self) -> None:
        piece = self.stream.push(self._pending)
        self._pending = []
        self._send(piece)
        self._pause.take()
        back = time.perf_counter()
        self.paused += back - self.last_at
        self._slice = (back, max(SLICE_SECONDS, MIN_SLICE_PER_SWITCH * getattr(self._pause, "switch_seconds", 0.0)))

    def finish(self) -> None:
        self._send(self.stream.push(self._pending))
        self._pending = []
        self._send(self.stream.finish(), last=True)

    def _send(self, text: str, *, last: bool = False) -> None:
        """Tokens wait for the text that they complete; at the end they come without."""
        fresh = tuple(self.tokens[self._told :])
        if text or (last and fresh):
            self._told = len(self.tokens)
            self._emit(TextPiece(text, fresh))


def stream_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ask: GenerationRequest,
    emit: Callable[[TextPiece], None],
    cancelled: threading.Event,
    pause: YieldPoint | None = None,
) -> GeneratedAnswer:
    """Generate, calling `emit` with pieces of the text. Raises RequestError: the prompt or the memory does not fit."""
    arguments, bound = generation_arguments(model, ask)
    ends = set(stop_token_ids(model, tokenizer))
    seed = ask.seed if ask.seed is not None else secrets.randbelow(ENGINE_SEED_LIMIT)
    stream, watch = TextStream(_decoder(tokenizer), ask.stops), LogitsRecorder(model, tokenizer, ask.alternatives)
    listener = TokenListener(stream, ends, emit, cancelled, watch, pause or YieldPoint())
    ids = torch.tensor([ask.ids], device=model.device)
    torch.manual_seed(seed)
    with watch, _no_gradients(model), explain_out_of_memory():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            stopping_criteria=StoppingCriteriaList([listener]),
            eos_token_id=sorted(ends) or None,
            pad_token_id=tokenizer.pad_token_id,
            **arguments,
        )
    listener.finish()
    reason = _finish_reason(listener, cancelled)
    cut = bound if reason == "length" else ""
    return _make_answer(ask, listener, reason, seed, cut)


def generation_arguments(model: PreTrainedModel, ask: GenerationRequest) -> tuple[dict[str, Any], str]:
    """Keyword arguments of generate, and the notice that holds if the answer runs into the model's context length."""
    arguments = library_arguments.generation_args(ask.settings)
    limit = loaded_context_length(model)
    wanted = arguments.get("max_new_tokens")
    if limit is None:
        return {**arguments, "max_new_tokens": wanted or 1024}, ""
    room = limit - len(ask.ids)
    if room < 1:
        message = f"The prompt has {len(ask.ids)} tokens; this model's context holds {limit}."
        raise RequestError(message, "Shorten the prompt.", code="context_length_exceeded", param="messages")
    if wanted is not None and wanted <= room:
        return arguments, ""
    notice = f"The answer was cut at the model's context length: {len(ask.ids)} + {room} = {limit} tokens."
    return {**arguments, "max_new_tokens": room}, notice


def loaded_context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the loaded model's positions allow, or None when its config does not say."""
    value = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return value if isinstance(value, int) else None


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return decode


def _no_gradients(model: PreTrainedModel) -> torch.inference_mode | torch.no_grad:
    # quantized layers keep tensors from one forward to the next: those must not be inference tensors
    return torch.no_grad() if getattr(model, "is_quantized", False) else torch.inference_mode()


def _finish_reason(listener: TokenListener, cancelled: threading.Event) -> FinishReason:
    if listener.ended or listener.stream.stopped:
        return "stop"
    return "cancelled" if cancelled.is_set() else "length"


def _make_answer(
    ask: GenerationRequest, listener: TokenListener, reason: FinishReason, seed: int, notice: str
) -> GeneratedAnswer:
    seconds = listener.last_at - listener.first_at - listener.paused
    return GeneratedAnswer(
        text=listener.stream.text,
        prompt=ask.text,
        prompt_tokens=len(ask.ids),
        completion_tokens=listener.count,
        ttft_s=max(0.0, listener.first_at - ask.received),
        tokens_per_second=(listener.count - 1) / seconds if seconds > 0 else 0.0,
        finish_reason=reason,
        seed=seed,
        notice=notice,
        tokens=tuple(listener.tokens),
    )

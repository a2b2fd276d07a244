"""Generate one answer: token ids in, pieces of text out, and its statistics at the end.

`model.generate` does the decoding. A stopping criterion is called for every token; it passes text on up to 33 times a
second, so that streaming costs little, and ends a canceled answer within one token.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from toolkit.config import InferenceConfig
from toolkit.worker.constraints.allowed_tokens import AllowedTokens
from toolkit.worker.models import library_arguments
from toolkit.worker.models.load import stop_token_ids
from toolkit.worker.serving.guard import explain_out_of_memory
from toolkit.worker.serving.request_models import ENGINE_SEED_LIMIT, RequestError
from toolkit.worker.serving.response_reader import ResponseReader, create_response_reader
from toolkit.worker.serving.text_stream import TextPiece, TextStream, TokenScore, ToolCall
from toolkit.worker.serving.token_scores import LogitsRecorder

FLUSH_SECONDS = 0.03
"""Seconds between two pieces: text appears steadily, and the server thread rarely takes the interpreter lock."""

SLICE_SECONDS = 0.2
"""Seconds for which an answer computes while others wait for the model."""
MIN_SLICE_PER_SWITCH = 5
"""A slice lasts at least this many times as long as switching to its adapter: switching costs at most a sixth."""

DEFAULT_MAX_NEW_TOKENS = 1024
"""Limit of an answer if neither the settings nor the config of the model have one."""

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate. text: the exact prompt. ids: its tokens. received: time.perf_counter() at arrival.

    stops: texts that end the answer. alternatives: number of alternatives to return for each token; None: no token
    scores. header: what the answer may begin with without it being a part of it (`tokens/answer_header.py`).
    split: separate reasoning and tool calls from the text. tools: the tools that the prompt offers. grammar: of the
    answer, None for any text.
    """

    model: str
    text: str
    ids: list[int]
    settings: InferenceConfig
    received: float
    seed: int | None = None
    stops: tuple[str, ...] = ()
    alternatives: int | None = None
    header: tuple[int, ...] = ()
    split: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    grammar: str | None = None


@dataclass(frozen=True)
class GeneratedAnswer:
    """A finished answer with its statistics.

    ttft_s: seconds from arrival to the first token, including the time in the queue. tokens_per_second: of the tokens
    after the first one, without the time that other answers computed. notice: a message about how it ended, or "".
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
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


class YieldPoint:
    """Lets other answers compute between two tokens. This base class never yields.

    switch_seconds: how long the last switch back to this answer's adapter took.
    """

    switch_seconds = 0.0

    def should_yield(self) -> bool:
        """Return whether another answer waits."""
        return False

    def yield_turn(self) -> None:
        """Let the others compute; return when it is this answer's turn again."""


class TokenListener(StoppingCriteria):
    """Stopping criterion that emits pieces of text and ends the answer when it is canceled or a stop text occurs."""

    def __init__(
        self,
        stream: TextStream,
        ends: set[int],
        emit: Callable[[TextPiece], None],
        cancelled: threading.Event,
        recorder: LogitsRecorder,
        pause: YieldPoint,
        reader: ResponseReader | None = None,
    ) -> None:
        self.stream, self._ends, self._emit, self._cancelled = stream, ends, emit, cancelled
        self._recorder, self._pause, self._reader = recorder, pause, reader
        self.pieces: list[TextPiece] = []
        self.count, self.first_at, self.last_at, self.paused = 0, 0.0, 0.0, 0.0
        self.tokens: list[TokenScore] = []
        self._emitted = 0  # number of entries of `tokens` that were emitted
        self._slice = (time.perf_counter(), SLICE_SECONDS)  # start and duration
        self.ended = False
        self._end_token: list[int] = []
        self._pending: list[int] = []
        self._flushed_at = 0.0
        self._stop_flags: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self._stop_flags is None:
            shape, device = (input_ids.shape[0],), input_ids.device
            self._stop_flags = (
                torch.zeros(shape, dtype=torch.bool, device=device),
                torch.ones(shape, dtype=torch.bool, device=device),
            )
        return self._stop_flags[int(self._handle_token(int(input_ids[0, -1])))]

    def _handle_token(self, token: int) -> bool:
        if self.ended or self.stream.stopped or self._cancelled.is_set():
            return True
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.count += 1
        if token in self._ends:
            self.ended = True
            self._end_token = [token]
            return True
        score = self._recorder.score_chosen_token(token)
        if score is not None:
            self.tokens.append(score)
        self._pending.append(token)
        if self.last_at - self._flushed_at >= FLUSH_SECONDS:
            piece = self.stream.push(self._pending)
            self._pending = []
            if piece:  # otherwise the next token may complete a character, which is then emitted without waiting
                self._flushed_at = self.last_at
                self._send(piece)
        if self.last_at - self._slice[0] > self._slice[1] and self._pause.should_yield():
            self._yield_turn()
        return self.stream.stopped or self._cancelled.is_set()

    def _yield_turn(self) -> None:
        piece = self.stream.push(self._pending)
        self._pending = []
        self._send(piece)
        self._pause.yield_turn()
        resumed = time.perf_counter()
        self.paused += resumed - self.last_at
        self._slice = (resumed, max(SLICE_SECONDS, MIN_SLICE_PER_SWITCH * self._pause.switch_seconds))

    def finish(self) -> None:
        """Emit what is left after the last token."""
        if self._reader is not None:
            self._pending += self._end_token  # it may close a tool call
        self._send(self.stream.push(self._pending))
        self._pending = []
        self._send(self.stream.finish(), last=self._reader is None)
        if self._reader is not None:
            self._emit_piece(self._reader.finish(), last=True)

    def _send(self, text: str, *, last: bool = False) -> None:
        self._emit_piece(TextPiece(text) if self._reader is None else self._reader.feed(text), last=last)

    def _emit_piece(self, piece: TextPiece, *, last: bool) -> None:
        """Emit a piece with the scores of its tokens; scores of tokens without text are emitted at the end."""
        scores = tuple(self.tokens[self._emitted :])
        if piece.text or piece.reasoning or piece.calls or (last and scores):
            self._emitted = len(self.tokens)
            self.pieces.append(replace(piece, tokens=scores))
            self._emit(self.pieces[-1])


def stream_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    request: GenerationRequest,
    emit: Callable[[TextPiece], None],
    cancelled: threading.Event,
    pause: YieldPoint | None = None,
) -> GeneratedAnswer:
    """Generate an answer and call `emit` with pieces of its text.

    Raises RequestError: the prompt does not fit into the context, or the memory is not sufficient.
    """
    arguments, length_notice = generation_arguments(model, request)
    ends = set(stop_token_ids(model, tokenizer))
    seed = request.seed if request.seed is not None else secrets.randbelow(ENGINE_SEED_LIMIT)
    reader = create_response_reader(tokenizer, request.text, request.tools) if request.split else None
    stream = TextStream(
        _decoder(tokenizer, special=reader is not None), request.stops, () if reader else request.header
    )
    recorder = LogitsRecorder(model, tokenizer, request.alternatives)
    listener = TokenListener(stream, ends, emit, cancelled, recorder, pause or YieldPoint(), reader)
    if request.grammar is not None:
        allowed = AllowedTokens(tokenizer, request.grammar, sorted(ends), len(request.ids))
        arguments["logits_processor"] = LogitsProcessorList([allowed])
    ids = torch.tensor([request.ids], device=model.device)
    torch.manual_seed(seed)
    with recorder, _no_gradients(model), explain_out_of_memory():
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
    notice = length_notice if reason == "length" else ""
    return _make_answer(request, listener, reason, seed, notice)


def generation_arguments(model: PreTrainedModel, request: GenerationRequest) -> tuple[dict[str, Any], str]:
    """Return the keyword arguments of `generate`, and the notice to show if the answer reaches the context length.

    Raises RequestError: the prompt fills the context.
    """
    arguments = library_arguments.generation_args(request.settings)
    limit = loaded_context_length(model)
    wanted = arguments.get("max_new_tokens")
    if limit is None:
        return {**arguments, "max_new_tokens": wanted or DEFAULT_MAX_NEW_TOKENS}, ""
    prompt_tokens = len(request.ids)
    room = limit - prompt_tokens
    if room < 1:
        message = f"The prompt has {prompt_tokens:,} tokens, but the model's context length is {limit:,} tokens."
        raise RequestError(message, "Shorten the prompt.", code="context_length_exceeded", param="messages")
    if wanted is not None and wanted <= room:
        return arguments, ""
    notice = (
        f"The answer was truncated at the model's context length of {limit:,} tokens "
        f"(prompt {prompt_tokens:,}, answer {room:,})."
    )
    return {**arguments, "max_new_tokens": room}, notice


def loaded_context_length(model: PreTrainedModel) -> int | None:
    """Return the context length of the loaded model in tokens, or None if its config does not say."""
    value = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return value if isinstance(value, int) else None


def _decoder(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))

    return decode


def _no_gradients(model: PreTrainedModel) -> torch.inference_mode | torch.no_grad:
    # quantized layers keep tensors from one forward pass to the next, which must not be inference tensors
    return torch.no_grad() if getattr(model, "is_quantized", False) else torch.inference_mode()


def _finish_reason(listener: TokenListener, cancelled: threading.Event) -> FinishReason:
    if listener.ended or listener.stream.stopped:
        return "stop"
    return "cancelled" if cancelled.is_set() else "length"


def _make_answer(
    request: GenerationRequest, listener: TokenListener, reason: FinishReason, seed: int, notice: str
) -> GeneratedAnswer:
    seconds = listener.last_at - listener.first_at - listener.paused
    return GeneratedAnswer(
        text="".join(piece.text for piece in listener.pieces),
        prompt=request.text,
        prompt_tokens=len(request.ids),
        completion_tokens=listener.count,
        ttft_s=max(0.0, listener.first_at - request.received),
        tokens_per_second=(listener.count - 1) / seconds if seconds > 0 else 0.0,
        finish_reason=reason,
        seed=seed,
        notice=notice,
        tokens=tuple(listener.tokens),
        reasoning="".join(piece.reasoning for piece in listener.pieces),
        calls=tuple(call for piece in listener.pieces for call in piece.calls),
    )

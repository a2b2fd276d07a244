"""Answers in OpenAI's words: one JSON object, or server-sent events. Knows no model and no route."""

from __future__ import annotations

import asyncio
import enum
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from toolkit.worker.serving.engine_host import AnswerStream
from toolkit.worker.serving.guard import error_body
from toolkit.worker.serving.text_stream import REPLACEMENT_CHARACTER, TextPiece, TokenScore

if TYPE_CHECKING:
    from toolkit.worker.serving.stream_answer import GeneratedAnswer

KEEPALIVE_SECONDS = 10.0
DONE_EVENT = b"data: [DONE]\n\n"


class ReplyFamily(enum.Enum):
    """OpenAI's two families: (prefix of an id, object of a whole, object of an event)."""

    CHAT = ("chatcmpl-", "chat.completion", "chat.completion.chunk")
    TEXT = ("cmpl-", "text_completion", "text_completion")

    def head(self, model: str, *, event: bool) -> dict[str, Any]:
        prefix, whole_kind, event_kind = self.value
        kind = event_kind if event else whole_kind
        return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}

    def piece(self, piece: TextPiece, *, first: bool = False) -> dict[str, Any]:
        """choices[0] of an event."""
        figures = self.logprobs(piece.tokens)
        if self is ReplyFamily.TEXT:
            return {"index": 0, "text": piece.text, "logprobs": figures, "finish_reason": None}
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        return {"index": 0, "delta": delta, "logprobs": figures, "finish_reason": None}

    def last(self, reason: str) -> dict[str, Any]:
        empty: dict[str, Any] = {"text": ""} if self is ReplyFamily.TEXT else {"delta": {}}
        return {"index": 0, **empty, "logprobs": None, "finish_reason": reason}

    def choice(self, answer: GeneratedAnswer) -> dict[str, Any]:
        """choices[0] of a whole answer."""
        text: dict[str, Any] = {"text": answer.text}
        if self is ReplyFamily.CHAT:
            text = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
        return {"index": 0, **text, "logprobs": self.logprobs(answer.tokens), "finish_reason": answer.finish_reason}

    def logprobs(self, tokens: Sequence[TokenScore]) -> dict[str, Any] | None:
        """Each family has a form of its own for the figures of tokens; None where nobody asked for them."""
        if not tokens:
            return None
        if self is ReplyFamily.CHAT:
            return {"content": [token_entry(token) for token in tokens], "refusal": None}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens] if tokens[0].top else None,
            "text_offset": [],
        }


def token_entry(token: TokenScore) -> dict[str, Any]:
    """A token as in chat completions."""
    top = [{"token": text, "logprob": value, "bytes": _bytes(text)} for text, value in token.top]
    return {"token": token.text, "logprob": token.logprob, "bytes": _bytes(token.text), "top_logprobs": top}


def _bytes(text: str) -> list[int] | None:
    return None if REPLACEMENT_CHARACTER in text else list(text.encode())  # a part of a character has no text


def answer_metadata(answer: GeneratedAnswer) -> dict[str, Any]:
    """What stands beside the choices of a finished answer."""
    return {
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
        "timings": {"ttft_s": answer.ttft_s, "tokens_per_second": answer.tokens_per_second},
        "prompt": answer.prompt,
        "seed": answer.seed,
        "notice": answer.notice,
    }


class EventStream(StreamingResponse):
    """The events of some turns; whatever ends the connection also ends the turns."""

    def __init__(self, turns: Sequence[AnswerStream], events: AsyncIterator[bytes]) -> None:
        self._turns = turns
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for turn in self._turns:
                turn.cancelled.set()


def stream_one_answer(turn: AnswerStream, shape: ReplyFamily, model: str, usage_alone: bool) -> EventStream:
    return EventStream([turn], _stream_events(turn, shape, model, usage_alone))


def stream_side_by_side(columns: Sequence[tuple[AnswerStream | Exception, str]]) -> EventStream:
    """The events of several chat turns in one stream, each with its `column`; a refused one has an error alone."""
    turns = [turn for turn, _ in columns if isinstance(turn, AnswerStream)]
    return EventStream(turns, _merge_streams(columns))


async def _stream_events(turn: AnswerStream, shape: ReplyFamily, model: str, usage_alone: bool) -> AsyncIterator[bytes]:
    head = shape.head(model, event=True)
    if shape is ReplyFamily.CHAT:
        yield _encode_event({**head, "choices": [shape.piece(TextPiece(""), first=True)]})
    while True:
        event = await _next_or_timeout(turn.events)
        if event is None:
            yield b": waiting\n\n"
            continue
        yield _encode_event({**_event_body(event, shape, head)})
        if isinstance(event, TextPiece):
            continue
        if usage_alone and not isinstance(event, Exception):
            yield _encode_event({**head, "choices": [], "usage": answer_metadata(event)["usage"]})
        yield DONE_EVENT
        return


async def _merge_streams(columns: Sequence[tuple[AnswerStream | Exception, str]]) -> AsyncIterator[bytes]:
    heads = [ReplyFamily.CHAT.head(model, event=True) for _, model in columns]
    coming: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    pumps = [asyncio.create_task(_forward_events(i, turn, coming)) for i, (turn, _) in enumerate(columns)]
    open_columns = len(columns)
    try:
        while open_columns:
            found = await _next_or_timeout(coming)
            if found is None:
                yield b": waiting\n\n"
                continue
            column, event = found
            open_columns -= not isinstance(event, TextPiece)
            yield _encode_event({"column": column, **_event_body(event, ReplyFamily.CHAT, heads[column])})
        yield DONE_EVENT
    finally:
        for pump in pumps:
            pump.cancel()


async def _forward_events(column: int, turn: AnswerStream | Exception, coming: asyncio.Queue[tuple[int, Any]]) -> None:
    event: Any = turn if isinstance(turn, Exception) else await turn.events.get()
    while isinstance(event, TextPiece) and isinstance(turn, AnswerStream):
        await coming.put((column, event))
        event = await turn.events.get()
    await coming.put((column, event))


async def _next_or_timeout(queue: asyncio.Queue[Any]) -> Any:
    """The next entry, or None when it is time for a sign of life."""
    try:
        return await asyncio.wait_for(queue.get(), KEEPALIVE_SECONDS)
    except TimeoutError:
        return None


def _event_body(
    event: TextPiece | GeneratedAnswer | Exception, shape: ReplyFamily, head: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(event, TextPiece):
        return {**head, "choices": [shape.piece(event)]}
    if isinstance(event, Exception):
        return error_body(event)
    return {**head, "choices": [shape.last(event.finish_reason)], **answer_metadata(event)}


def _encode_event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def send_whole_answer(request: Request, turn: AnswerStream, shape: ReplyFamily, model: str) -> Response:
    """The finished answer; when the asker goes away the turn ends. Raises what the engine raised."""
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    finishing = asyncio.create_task(_wait_for_answer(turn))
    try:
        await asyncio.wait({leaving, finishing}, return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            return Response(status_code=499)  # nobody reads it
        answer = finishing.result()
        return JSONResponse(
            {**shape.head(model, event=False), "choices": [shape.choice(answer)], **answer_metadata(answer)}
        )
    finally:
        turn.cancelled.set()
        leaving.cancel()
        finishing.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _wait_for_answer(turn: AnswerStream) -> GeneratedAnswer:
    while isinstance(event := await turn.events.get(), TextPiece):
        continue
    if isinstance(event, Exception):
        raise event
    return event

"""Answers in the format of OpenAI's API: one JSON object, or server-sent events."""

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
from toolkit.worker.serving.text_stream import REPLACEMENT_CHARACTER, TextPiece, TokenScore, ToolCall

if TYPE_CHECKING:
    from toolkit.worker.serving.stream_answer import GeneratedAnswer

KEEPALIVE_SECONDS = 10.0
"""Seconds without an event after which a comment is sent, so that clients and proxies keep the connection."""
DONE_EVENT = b"data: [DONE]\n\n"


class ReplyFamily(enum.Enum):
    """OpenAI's two kinds of replies: (prefix of an id, `object` of a whole answer, `object` of an event)."""

    CHAT = ("chatcmpl-", "chat.completion", "chat.completion.chunk")
    TEXT = ("cmpl-", "text_completion", "text_completion")

    def envelope(self, model: str, *, event: bool) -> dict[str, Any]:
        """Return what all events of an answer, or the whole answer, start with."""
        prefix, whole_kind, event_kind = self.value
        kind = event_kind if event else whole_kind
        return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}

    def delta_choice(self, piece: TextPiece, *, first: bool = False) -> dict[str, Any]:
        """Return choices[0] of an event with text."""
        logprobs = self.logprobs(piece.tokens)
        if self is ReplyFamily.TEXT:
            return {"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
        delta: dict[str, Any] = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        if piece.calls:
            delta["tool_calls"] = [{"index": call.index, **call_entry(call)} for call in piece.calls]
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def final_choice(self, reason: str) -> dict[str, Any]:
        """Return choices[0] of the last event. reason: the finish reason."""
        empty: dict[str, Any] = {"text": ""} if self is ReplyFamily.TEXT else {"delta": {}}
        return {"index": 0, **empty, "logprobs": None, "finish_reason": reason}

    def choice(self, answer: GeneratedAnswer) -> dict[str, Any]:
        """Return choices[0] of a whole answer."""
        text = {"message": _message(answer)} if self is ReplyFamily.CHAT else {"text": answer.text}
        return {"index": 0, **text, "logprobs": self.logprobs(answer.tokens), "finish_reason": finish_reason(answer)}

    def logprobs(self, tokens: Sequence[TokenScore]) -> dict[str, Any] | None:
        """Return token scores in the format of the family, or None if there are none."""
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


def _message(answer: GeneratedAnswer) -> dict[str, Any]:
    content = None if answer.calls and not answer.text else answer.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [call_entry(call) for call in answer.calls]
    return message


def call_entry(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def finish_reason(answer: GeneratedAnswer) -> str:
    """Return why the answer ended, in OpenAI's words."""
    return "tool_calls" if answer.calls and answer.finish_reason == "stop" else answer.finish_reason


def token_entry(token: TokenScore) -> dict[str, Any]:
    """Return a token score in the format of chat completions."""
    top = [{"token": text, "logprob": value, "bytes": _bytes(text)} for text, value in token.top]
    return {"token": token.text, "logprob": token.logprob, "bytes": _bytes(token.text), "top_logprobs": top}


def _bytes(text: str) -> list[int] | None:
    return None if REPLACEMENT_CHARACTER in text else list(text.encode())  # a part of a character has no text


def answer_metadata(answer: GeneratedAnswer) -> dict[str, Any]:
    """Return the entries next to the choices of a finished answer."""
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
    """The events of one or more answers; the answers are canceled when the connection ends."""

    def __init__(self, streams: Sequence[AnswerStream], events: AsyncIterator[bytes]) -> None:
        self._streams = streams
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for stream in self._streams:
                stream.cancelled.set()


def stream_one_answer(stream: AnswerStream, family: ReplyFamily, model: str, include_usage: bool) -> EventStream:
    """Return the events of one answer. include_usage: send OpenAI's separate event with the usage at the end."""
    return EventStream([stream], _stream_events(stream, family, model, include_usage))


def stream_side_by_side(columns: Sequence[tuple[AnswerStream | Exception, str]]) -> EventStream:
    """Return the events of several chat answers, each with its `column`; a rejected request has one error event.

    columns: (answer or error, model) of each column.
    """
    streams = [stream for stream, _ in columns if isinstance(stream, AnswerStream)]
    return EventStream(streams, _merge_streams(columns))


async def _stream_events(
    stream: AnswerStream, family: ReplyFamily, model: str, include_usage: bool
) -> AsyncIterator[bytes]:
    envelope = family.envelope(model, event=True)
    if family is ReplyFamily.CHAT:
        yield _encode_event({**envelope, "choices": [family.delta_choice(TextPiece(""), first=True)]})
    while True:
        event = await _next_or_timeout(stream.events)
        if event is None:
            yield b": waiting\n\n"
            continue
        yield _encode_event({**_event_body(event, family, envelope)})
        if isinstance(event, TextPiece):
            continue
        if include_usage and not isinstance(event, Exception):
            yield _encode_event({**envelope, "choices": [], "usage": answer_metadata(event)["usage"]})
        yield DONE_EVENT
        return


async def _merge_streams(columns: Sequence[tuple[AnswerStream | Exception, str]]) -> AsyncIterator[bytes]:
    envelopes = [ReplyFamily.CHAT.envelope(model, event=True) for _, model in columns]
    merged: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward_events(i, stream, merged)) for i, (stream, _) in enumerate(columns)]
    open_columns = len(columns)
    try:
        while open_columns:
            entry = await _next_or_timeout(merged)
            if entry is None:
                yield b": waiting\n\n"
                continue
            column, event = entry
            open_columns -= not isinstance(event, TextPiece)
            yield _encode_event({"column": column, **_event_body(event, ReplyFamily.CHAT, envelopes[column])})
        yield DONE_EVENT
    finally:
        for task in tasks:
            task.cancel()


async def _forward_events(
    column: int, stream: AnswerStream | Exception, merged: asyncio.Queue[tuple[int, Any]]
) -> None:
    event: Any = stream if isinstance(stream, Exception) else await stream.events.get()
    while isinstance(event, TextPiece) and isinstance(stream, AnswerStream):
        await merged.put((column, event))
        event = await stream.events.get()
    await merged.put((column, event))


async def _next_or_timeout(queue: asyncio.Queue[Any]) -> Any:
    """Return the next entry, or None after KEEPALIVE_SECONDS."""
    try:
        return await asyncio.wait_for(queue.get(), KEEPALIVE_SECONDS)
    except TimeoutError:
        return None


def _event_body(
    event: TextPiece | GeneratedAnswer | Exception, family: ReplyFamily, envelope: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(event, TextPiece):
        return {**envelope, "choices": [family.delta_choice(event)]}
    if isinstance(event, Exception):
        return error_body(event)
    return {**envelope, "choices": [family.final_choice(finish_reason(event))], **answer_metadata(event)}


def _encode_event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def send_whole_answer(request: Request, stream: AnswerStream, family: ReplyFamily, model: str) -> Response:
    """Return the finished answer; cancel it if the client disconnects. Raises what the engine raised."""
    disconnect = asyncio.create_task(_wait_for_disconnect(request))
    finish = asyncio.create_task(_wait_for_answer(stream))
    try:
        await asyncio.wait({disconnect, finish}, return_when=asyncio.FIRST_COMPLETED)
        if not finish.done():
            return Response(status_code=499)  # nginx's status for a client that closed the connection
        answer = finish.result()
        envelope = family.envelope(model, event=False)
        return JSONResponse({**envelope, "choices": [family.choice(answer)], **answer_metadata(answer)})
    finally:
        stream.cancelled.set()
        disconnect.cancel()
        finish.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _wait_for_answer(stream: AnswerStream) -> GeneratedAnswer:
    while isinstance(event := await stream.events.get(), TextPiece):
        continue
    if isinstance(event, Exception):
        raise event
    return event

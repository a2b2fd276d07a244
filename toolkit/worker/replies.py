"""Answers in OpenAI's words: one JSON object, or server-sent events. Knows no model and no route."""

from __future__ import annotations

import asyncio
import enum
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from toolkit.worker.guard import error_body
from toolkit.worker.host import Turn

if TYPE_CHECKING:
    from toolkit.worker.generate import Answer

SIGN_OF_LIFE_SECONDS = 10.0


class Shape(enum.Enum):
    """OpenAI's two families: (prefix of an id, object of a whole, object of an event)."""

    CHAT = ("chatcmpl-", "chat.completion", "chat.completion.chunk")
    TEXT = ("cmpl-", "text_completion", "text_completion")

    def head(self, model: str, *, event: bool) -> dict[str, Any]:
        prefix, whole_kind, event_kind = self.value
        kind = event_kind if event else whole_kind
        return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": model}

    def piece(self, text: str, *, first: bool = False) -> dict[str, Any]:
        """choices[0] of an event."""
        if self is Shape.TEXT:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}

    def last(self, reason: str) -> dict[str, Any]:
        empty: dict[str, Any] = {"text": ""} if self is Shape.TEXT else {"delta": {}}
        return {"index": 0, **empty, "logprobs": None, "finish_reason": reason}

    def choice(self, answer: Answer) -> dict[str, Any]:
        """choices[0] of a whole answer."""
        text: dict[str, Any] = {"text": answer.text}
        if self is Shape.CHAT:
            text = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
        return {"index": 0, **text, "logprobs": None, "finish_reason": answer.finish_reason}


def figures(answer: Answer) -> dict[str, Any]:
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
    """The events of one turn; whatever ends the connection also ends the turn."""

    def __init__(self, turn: Turn, shape: Shape, model: str, usage_alone: bool) -> None:
        self._turn = turn
        super().__init__(
            _events(turn, shape, model, usage_alone),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turn.cancelled.set()


async def _events(turn: Turn, shape: Shape, model: str, usage_alone: bool) -> AsyncIterator[bytes]:
    head = shape.head(model, event=True)
    if shape is Shape.CHAT:
        yield _event({**head, "choices": [shape.piece("", first=True)]})
    while True:
        try:
            event = await asyncio.wait_for(turn.events.get(), SIGN_OF_LIFE_SECONDS)
        except TimeoutError:
            yield b": waiting\n\n"
            continue
        if isinstance(event, str):
            yield _event({**head, "choices": [shape.piece(event)]})
            continue
        if isinstance(event, Exception):
            yield _event(error_body(event))
        else:
            yield _event({**head, "choices": [shape.last(event.finish_reason)], **figures(event)})
            if usage_alone:
                yield _event({**head, "choices": [], "usage": figures(event)["usage"]})
        yield b"data: [DONE]\n\n"
        return


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def whole(request: Request, turn: Turn, shape: Shape, model: str) -> Response:
    """The finished answer; when the asker goes away the turn ends. Raises what the engine raised."""
    leaving = asyncio.create_task(_gone(request))
    finishing = asyncio.create_task(_finished(turn))
    try:
        await asyncio.wait({leaving, finishing}, return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            return Response(status_code=499)  # nobody reads it
        answer = finishing.result()
        return JSONResponse({**shape.head(model, event=False), "choices": [shape.choice(answer)], **figures(answer)})
    finally:
        turn.cancelled.set()
        leaving.cancel()
        finishing.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _finished(turn: Turn) -> Answer:
    while isinstance(event := await turn.events.get(), str):
        continue
    if isinstance(event, Exception):
        raise event
    return event

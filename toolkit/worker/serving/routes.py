"""The engine's HTTP routes: OpenAI's API for models, chat and completions, and some of our own.

    GET  /health               {status, phase, message, hint, runs, ...}; the only one without a token
    GET  /v1/models            "base" and the attached runs
    POST /v1/chat/completions  POST /v1/completions   whole or as server-sent events
    POST /v1/compare           {asks: [chat requests]}: answered side by side in one stream, each event with its column
    POST /v1/score             {tokens, loss, perplexity} of an expected answer, as training would count it
    POST /v1/render            {prompt, prompt_tokens}: the exact prompt of a conversation
    POST /v1/load              {run}: attach a run's adapter
    POST /shutdown

The last event of a stream carries, beside OpenAI's `finish_reason`, `usage`, `timings` {ttft_s, tokens_per_second},
`prompt` (the exact string), `seed` and `notice`. Knows no torch: `host.py` computes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from toolkit.errors import ToolkitError
from toolkit.runs.model_names import BASE
from toolkit.services.engine_process import ENGINE_SERVICE
from toolkit.worker.serving.engine_host import AnswerStream, EngineHost
from toolkit.worker.serving.guard import RequestGuard, error_handlers, read_request_body
from toolkit.worker.serving.openai_format import (
    ReplyFamily,
    send_whole_answer,
    stream_one_answer,
    stream_side_by_side,
    token_entry,
)
from toolkit.worker.serving.request_models import (
    ChatRequest,
    CompareRequest,
    CompletionRequest,
    LoadRequest,
    RenderRequest,
    ScoreRequest,
    parse_request,
)


def build_engine_app(host: EngineHost, token: str) -> ASGIApp:
    """The guarded ASGI app. `host` begins with the server and closes with it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        host.begin()
        yield
        host.close()

    routes = EngineRoutes(host)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/compare", routes.compare, methods=["POST"]),
            Route("/v1/score", routes.score, methods=["POST"]),
            Route("/v1/render", routes.render, methods=["POST"]),
            Route("/v1/load", routes.load, methods=["POST"]),
            Route("/shutdown", routes.shutdown, methods=["POST"]),
        ],
        exception_handlers=error_handlers(ENGINE_SERVICE, "/v1/models and /health"),
        lifespan=lifespan,
    )
    return RequestGuard(app, token, ENGINE_SERVICE)


class EngineRoutes:
    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def health(self, _: Request) -> Response:
        return JSONResponse(self._host.health())

    async def models(self, _: Request) -> Response:
        names = (BASE, *self._host.ready().runs)
        return JSONResponse(
            {"object": "list", "data": [{"id": n, "object": "model", "created": 0, "owned_by": "local"} for n in names]}
        )

    async def chat(self, request: Request) -> Response:
        received = time.perf_counter()
        asked = parse_request(ChatRequest, await read_request_body(request))
        engine = self._host.ready()
        form = engine.config_for_model(asked.model, asked.prompt_of)
        text, ids = await run_in_threadpool(engine.prompt, form, asked.messages)
        return await self._reply(request, ReplyFamily.CHAT, asked, text, ids, received)

    async def compare(self, request: Request) -> Response:
        received = time.perf_counter()
        asks = parse_request(CompareRequest, await read_request_body(request)).asks
        columns = [(await self._column(given, received), str(given.get("model", ""))[:200]) for given in asks]
        return stream_side_by_side(columns)

    async def _column(self, given: dict[str, Any], received: float) -> AnswerStream | Exception:
        """One of several questions; what is wrong with it is its own."""
        try:
            asked = parse_request(ChatRequest, given)
            engine = self._host.ready()
            form = engine.config_for_model(asked.model, asked.prompt_of)
            text, ids = await run_in_threadpool(engine.prompt, form, asked.messages)
            return self._turn(asked, text, ids, received)
        except ToolkitError as error:
            return error

    async def score(self, request: Request) -> Response:
        asked = parse_request(ScoreRequest, await read_request_body(request))
        tokens = await asyncio.wrap_future(self._host.score(asked))
        loss = -sum(token.logprob for token in tokens) / len(tokens)
        return JSONResponse(
            {"tokens": [token_entry(token) for token in tokens], "loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        )

    async def completions(self, request: Request) -> Response:
        received = time.perf_counter()
        asked = parse_request(CompletionRequest, await read_request_body(request))
        engine = self._host.ready()
        form = engine.config_for_model(asked.model, asked.prompt_of)
        text, ids = await run_in_threadpool(engine.encode_raw_text, form, asked.text)
        return await self._reply(request, ReplyFamily.TEXT, asked, text, ids, received)

    async def _reply(
        self,
        request: Request,
        shape: ReplyFamily,
        asked: ChatRequest | CompletionRequest,
        text: str,
        ids: list[int],
        received: float,
    ) -> Response:
        turn = self._turn(asked, text, ids, received)
        if asked.stream:
            usage_alone = asked.stream_options is not None and asked.stream_options.include_usage
            return stream_one_answer(turn, shape, asked.model, usage_alone)
        return await send_whole_answer(request, turn, shape, asked.model)

    def _turn(self, asked: ChatRequest | CompletionRequest, text: str, ids: list[int], received: float) -> AnswerStream:
        from toolkit.worker.serving.stream_answer import (  # loaded by now: the engine is ready
            GenerationRequest,
            generation_arguments,
        )

        engine = self._host.ready()
        settings = asked.settings(engine.config_for_model(asked.model, asked.prompt_of).inference)
        ask = GenerationRequest(asked.model, text, ids, settings, received, asked.seed, asked.stops, asked.alternatives)
        generation_arguments(engine.adapters.model, ask)  # refuses what can't fit while a status code can still say so
        return self._host.ask(ask)

    async def render(self, request: Request) -> Response:
        asked = parse_request(RenderRequest, await read_request_body(request))
        engine = self._host.ready()
        form = engine.config_for_model(asked.model, asked.prompt_of)
        text, ids = await run_in_threadpool(engine.prompt, form, asked.messages)
        return JSONResponse({"prompt": text, "prompt_tokens": len(ids)})

    async def load(self, request: Request) -> Response:
        asked = parse_request(LoadRequest, await read_request_body(request))
        attaching = self._host.attach(asked.run)
        if self._host.state == "loading":
            return JSONResponse({"status": "queued", "run": asked.run}, status_code=202)
        await asyncio.wrap_future(attaching)
        return JSONResponse({"status": "loaded", "run": asked.run})

    async def shutdown(self, _: Request) -> Response:
        asyncio.get_running_loop().call_later(0.05, self._host.end)  # after the reply is on its way
        return JSONResponse({"status": "ending"})

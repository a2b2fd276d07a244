"""HTTP routes of the engine: OpenAI's API for models, chat and completions, and some additional routes.

    GET  /health               {status, phase, message, hint, runs, ...}
    GET  /v1/models            "base" and the attached runs
    POST /v1/chat/completions  POST /v1/completions   as one object, or as server-sent events
    POST /v1/compare           {asks: [chat requests]}: answered side by side in one stream, each event with its column
    POST /v1/score             {tokens, loss, perplexity} of an expected answer, as training computes them
    POST /v1/render            {prompt, prompt_tokens}: the exact prompt of a conversation
    POST /v1/load              {run}: attach a run's adapter
    POST /shutdown

In addition to OpenAI's `finish_reason`, the last event of a stream has `usage`, `timings` {ttft_s, tokens_per_second},
`prompt` (the exact string), `seed` and `notice`.

Chat completions take `tools`, and return `tool_calls` and `reasoning_content` apart from `content`. A comparison and
/v1/completions return the text as the model has written it.
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
    """Return the ASGI application behind its guard. `host` begins and closes with the server."""

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
    """One method for each route; the module docstring describes them."""

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
        body = parse_request(ChatRequest, await read_request_body(request))
        engine = self._host.ready()
        config = engine.config_for_model(body.model, body.prompt_of)
        text, ids = await run_in_threadpool(engine.encode_messages, config, body.messages, body.offered_tools)
        return await self._reply(request, ReplyFamily.CHAT, body, text, ids, received)

    async def compare(self, request: Request) -> Response:
        received = time.perf_counter()
        asks = parse_request(CompareRequest, await read_request_body(request)).asks
        columns = [(await self._column(given, received), str(given.get("model", ""))[:200]) for given in asks]
        return stream_side_by_side(columns)

    async def _column(self, given: dict[str, Any], received: float) -> AnswerStream | Exception:
        """Start one of several answers; an invalid request does not affect the others."""
        try:
            body = parse_request(ChatRequest, given)
            engine = self._host.ready()
            config = engine.config_for_model(body.model, body.prompt_of)
            text, ids = await run_in_threadpool(engine.encode_messages, config, body.messages, body.offered_tools)
            grammar = await run_in_threadpool(body.find_grammar)
            return self._start_answer(body, text, ids, received, grammar, split=False)
        except ToolkitError as error:
            return error

    async def score(self, request: Request) -> Response:
        body = parse_request(ScoreRequest, await read_request_body(request))
        tokens = await asyncio.wrap_future(self._host.score(body))
        loss = -sum(token.logprob for token in tokens) / len(tokens)
        perplexity = math.exp(min(loss, 700.0))  # exp overflows above 709
        return JSONResponse(
            {"tokens": [token_entry(token) for token in tokens], "loss": loss, "perplexity": perplexity}
        )

    async def completions(self, request: Request) -> Response:
        received = time.perf_counter()
        body = parse_request(CompletionRequest, await read_request_body(request))
        engine = self._host.ready()
        config = engine.config_for_model(body.model, body.prompt_of)
        text, ids = await run_in_threadpool(engine.encode_raw_text, config, body.text)
        return await self._reply(request, ReplyFamily.TEXT, body, text, ids, received)

    async def _reply(
        self,
        request: Request,
        family: ReplyFamily,
        body: ChatRequest | CompletionRequest,
        text: str,
        ids: list[int],
        received: float,
    ) -> Response:
        stream = self._start_answer(body, text, ids, received, await run_in_threadpool(body.find_grammar))
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return stream_one_answer(stream, family, body.model, include_usage)
        return await send_whole_answer(request, stream, family, body.model)

    def _start_answer(
        self,
        body: ChatRequest | CompletionRequest,
        text: str,
        ids: list[int],
        received: float,
        grammar: str | None,
        *,
        split: bool = True,
    ) -> AnswerStream:
        """Start an answer. split: return its reasoning and tool calls apart from its text; never for a raw prompt."""
        from toolkit.worker.serving.stream_answer import (  # imports torch, which is loaded once the engine is ready
            GenerationRequest,
            generation_arguments,
        )
        from toolkit.worker.tokens.answer_header import find_answer_header
        from toolkit.worker.tokens.examples import chat_enabled

        engine = self._host.ready()
        config = engine.config_for_model(body.model, body.prompt_of)
        settings = body.settings(config.inference)
        # a raw prompt may be anything, so its answer is passed on whole
        chat = isinstance(body, ChatRequest)
        header = find_answer_header(engine.tokenizer) if chat else ()
        tools = body.offered_tools if isinstance(body, ChatRequest) else ()
        request = GenerationRequest(
            model=body.model,
            text=text,
            ids=ids,
            settings=settings,
            received=received,
            seed=body.seed,
            stops=body.stops,
            alternatives=body.alternatives,
            header=header,
            split=chat and split and chat_enabled(config, engine.tokenizer),
            tools=tools,
            grammar=grammar,
        )
        generation_arguments(engine.adapters.model, request)  # reject what does not fit before the status code is sent
        return self._host.ask(request)

    async def render(self, request: Request) -> Response:
        body = parse_request(RenderRequest, await read_request_body(request))
        engine = self._host.ready()
        config = engine.config_for_model(body.model, body.prompt_of)
        text, ids = await run_in_threadpool(engine.encode_messages, config, body.messages)
        return JSONResponse({"prompt": text, "prompt_tokens": len(ids)})

    async def load(self, request: Request) -> Response:
        body = parse_request(LoadRequest, await read_request_body(request))
        attaching = self._host.attach(body.run)
        if self._host.state == "loading":
            return JSONResponse({"status": "queued", "run": body.run}, status_code=202)
        await asyncio.wrap_future(attaching)
        return JSONResponse({"status": "loaded", "run": body.run})

    async def shutdown(self, _: Request) -> Response:
        asyncio.get_running_loop().call_later(0.05, self._host.end)  # seconds: the response is sent before the end
        return JSONResponse({"status": "ending"})

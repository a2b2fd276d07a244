"""HTTP routes of the fine-tuning API, in OpenAI's format.

GET  /health                                   {status}
POST /v1/files   GET /v1/files                 upload (multipart), list
GET  /v1/files/ID   GET .../content   DELETE   a file
POST /v1/fine_tuning/jobs   GET                create, list
GET  /v1/fine_tuning/jobs/ID                   a job
POST /v1/fine_tuning/jobs/ID/cancel, /pause, /resume
GET  /v1/fine_tuning/jobs/ID/events, /checkpoints
GET  /v1/models   GET /v1/models/NAME          base models and fine-tuned models
POST /v1/chat/completions   POST /v1/completions
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from toolkit.api.api_desk import ApiDesk
from toolkit.api.api_process import API_SERVICE
from toolkit.api.engine_proxy import EngineProxy
from toolkit.api.file_routes import FileRoutes
from toolkit.api.files.file_store import MAX_FILE_BYTES
from toolkit.api.job_routes import JobRoutes
from toolkit.api.jobs.job_requests import resolve_base_model
from toolkit.api.jobs.tuned_models import (
    describe_model,
    find_tuned_model,
    list_tuned_runs,
    name_tuned_model,
    no_such_model,
)
from toolkit.api.paging import list_body
from toolkit.runs.run_dir import open_run, read_run_meta
from toolkit.worker.serving.guard import RequestGuard, error_handlers

FORM_BYTES = 64 * 1024
"""What a form may have around its file."""


def build_api_app(
    desk: ApiDesk, token: str, on_start: Callable[[], None] = lambda: None, on_end: Callable[[], None] = lambda: None
) -> ASGIApp:
    """Return the ASGI application behind its guard. on_start, on_end: called when the server has begun, and ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(on_start)
        yield
        await run_in_threadpool(on_end)

    files, jobs, models = FileRoutes(desk), JobRoutes(desk), ModelRoutes(desk)
    job = "/v1/fine_tuning/jobs/{job}"
    app = Starlette(
        routes=[
            Route("/health", lambda _: JSONResponse({"status": "ready"})),
            Route("/v1/files", files.create, methods=["POST"]),
            Route("/v1/files", files.list_page),
            Route("/v1/files/{file}", files.retrieve),
            Route("/v1/files/{file}", files.delete, methods=["DELETE"]),
            Route("/v1/files/{file}/content", files.content),
            Route("/v1/fine_tuning/jobs", jobs.create, methods=["POST"]),
            Route("/v1/fine_tuning/jobs", jobs.list_page),
            Route(job, jobs.retrieve),
            Route(f"{job}/cancel", jobs.cancel, methods=["POST"]),
            Route(f"{job}/pause", jobs.pause, methods=["POST"]),
            Route(f"{job}/resume", jobs.resume, methods=["POST"]),
            Route(f"{job}/events", jobs.events),
            Route(f"{job}/checkpoints", jobs.checkpoints),
            Route("/v1/models", models.list_all),
            Route("/v1/models/{name:path}", models.retrieve),
            Route("/v1/chat/completions", models.answer, methods=["POST"]),
            Route("/v1/completions", models.answer, methods=["POST"]),
        ],
        exception_handlers=error_handlers(API_SERVICE, "docs/fine-tuning-api.md"),
        lifespan=lifespan,
    )
    return RequestGuard(app, token, API_SERVICE, {("POST", "/v1/files"): MAX_FILE_BYTES + FORM_BYTES})


class ModelRoutes:
    """The routes below /v1/models, and chat."""

    def __init__(self, desk: ApiDesk) -> None:
        self._desk = desk
        self._proxy = EngineProxy(desk.save_dir, desk.stand_in)

    def list_all(self, _: Request) -> Response:
        base = [describe_model(name, 0) for name in self._proxy.list_base_models()]
        tuned = [
            describe_model(name_tuned_model(run), read_run_meta(run)["created"])
            for run in list_tuned_runs(self._desk.save_dir)
        ]
        return JSONResponse(list_body([*base, *tuned], has_more=False))

    def retrieve(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = find_tuned_model(self._desk.save_dir, name)
        if found is not None:
            created = read_run_meta(open_run(self._desk.save_dir, found.run))["created"]
            return JSONResponse(describe_model(name, created))
        if resolve_base_model(name, self._desk.stand_in) not in self._proxy.list_base_models():
            raise no_such_model(name)
        return JSONResponse(describe_model(name, 0))

    async def answer(self, request: Request) -> Response:
        return await self._proxy.forward(request)

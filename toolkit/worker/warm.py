"""python -m toolkit.worker.warm: the background worker, a process with the training libraries that answers questions.

Environment: FTK_SAVE_DIR, FTK_SERVICE_TOKEN, FTK_WARM_BUILD (the identity of this code), FTK_WARM_OWNER (a descriptor
that reads as ended once the process that started it is gone), and optionally FTK_WARM_IDLE_MINUTES (default 30; 0:
never). It listens on the loopback interface, as `services/service_process.py` describes. It exits when its owner is
gone, after FTK_WARM_IDLE_MINUTES without a question, or when memory runs short while it is idle. It uses no GPU memory.
Exit status as that of `serve.py`.

    GET  /health   {status, phase}
    POST /look     {kind, body, lane, wait} -> {state, phase, done, total, value, message, hint}
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from toolkit.services.warm_process import WARM_MIN_FREE_BYTES, WARM_SERVICE
from toolkit.system.machine import free_memory_bytes
from toolkit.worker.questions.desk import RequestQueue
from toolkit.worker.questions.question_job import QuestionJob
from toolkit.worker.serving.guard import RequestGuard, error_handlers, read_request_body
from toolkit.worker.serving.http_server import ServiceAddress, ShutdownCallback, run_and_exit, serve_application
from toolkit.worker.serving.request_models import RequestBody, parse_request

WARM_IDLE_MINUTES = 30.0
"""Minutes without a question after which it exits, unless FTK_WARM_IDLE_MINUTES says otherwise."""
WARM_CHECK_SECONDS = 5.0
"""Seconds between two checks of whether to exit."""
MAX_WAIT_SECONDS = 10.0
"""Longest time that a request may wait for its answer."""


class QuestionRequest(RequestBody):
    """kind: which question. lane: who asks; a new question replaces the one before it. wait: seconds, for an answer."""

    kind: Annotated[str, Field(min_length=1, max_length=100)]
    body: dict[str, Any]
    lane: Annotated[str, Field(max_length=200)] = ""
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class WarmWorkerRoutes:
    """The HTTP routes, and the checks of whether to exit.

    leave: shuts the server down. owner: a descriptor that reads as ended once the owner is gone. idle_seconds: time
    without a question after which to exit; 0 is never.
    """

    def __init__(self, desk: RequestQueue, leave: ShutdownCallback, owner: int, idle_seconds: float) -> None:
        self._desk, self._leave, self._owner, self._idle_seconds = desk, leave, owner, idle_seconds

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._desk.start()
        asyncio.get_running_loop().add_reader(self._owner, self._owner_gone)
        watching = asyncio.create_task(self._watch())
        yield
        watching.cancel()
        self._desk.close()

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ready" if self._desk.ready else "loading", "phase": self._desk.phase})

    async def answer_question(self, request: Request) -> Response:
        question = parse_request(QuestionRequest, await read_request_body(request))
        job = self._desk.get_or_start_job(question.kind, question.body, question.lane)
        if job.future is not None and question.wait:
            await asyncio.wait([asyncio.wrap_future(job.future)], timeout=question.wait)
        if job.finished:
            self._desk.discard_delivered_job(job, question.lane)
        return JSONResponse(self._describe_job(job))

    def _describe_job(self, job: QuestionJob) -> dict[str, Any]:
        if job.error is not None:
            return {"state": "failed", "message": job.error.message, "hint": job.error.hint}
        if job.value is not None:
            return {"state": "done", "value": job.value}
        phase = job.phase if self._desk.ready else self._desk.phase
        return {"state": "working", "phase": phase, "done": job.done, "total": job.total}

    def _owner_gone(self) -> None:
        # the owner never writes, so a readable descriptor means that it has ended
        self._end("The program that started it is gone")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WARM_CHECK_SECONDS)
            self._desk.discard_unfetched_jobs()
            # never in the middle of an answer
            if self._desk.busy or not self._desk.ready:
                continue
            idle = time.monotonic() - self._desk.used
            if 0 < self._idle_seconds < idle:
                self._end(f"No question for {idle:.0f} s")
            elif free_memory_bytes() < WARM_MIN_FREE_BYTES:
                self._end("Memory is short")

    def _end(self, reason: str) -> None:
        print(f"{reason}: exiting.", file=sys.stderr, flush=True)
        asyncio.get_running_loop().remove_reader(self._owner)
        self._leave()


def build_warm_app(warm: WarmWorkerRoutes, token: str) -> ASGIApp:
    """Return the ASGI app with the routes of `warm`, guarded by the token."""
    app = Starlette(
        routes=[
            Route("/health", warm.health),
            Route("/look", warm.answer_question, methods=["POST"]),
        ],
        exception_handlers=error_handlers(WARM_SERVICE, "worker/warm.py"),
        lifespan=warm.lifespan,
    )
    return RequestGuard(app, token, WARM_SERVICE)


def main() -> int:
    try:
        address = ServiceAddress.read(build=os.environ["FTK_WARM_BUILD"])
        owner = int(os.environ.pop("FTK_WARM_OWNER"))
        idle_seconds = 60 * float(os.environ.get("FTK_WARM_IDLE_MINUTES") or WARM_IDLE_MINUTES)
    except (KeyError, ValueError) as error:
        print(f"The environment is not complete: {error}", file=sys.stderr)
        return 2
    os.set_inheritable(owner, False)
    desk = RequestQueue()
    return serve_application(
        WARM_SERVICE,
        address,
        lambda leave: build_warm_app(WarmWorkerRoutes(desk, leave, owner, idle_seconds), address.token),
    )


if __name__ == "__main__":
    run_and_exit(main)

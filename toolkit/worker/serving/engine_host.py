"""The engine inside the server process: loading, the threads that compute, their queues, and the end when idle.

The training libraries are imported on a computing thread, after the server has started to answer. Up to
MAX_CONCURRENT_ANSWERS answers take turns with the model; further ones wait in the order of arrival.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.services.engine_process import ENGINE_SERVICE
from toolkit.worker.process import libraries
from toolkit.worker.serving.guard import as_toolkit_error
from toolkit.worker.serving.request_models import RequestError, ScoreRequest
from toolkit.worker.serving.text_stream import TextPiece, TokenScore

if TYPE_CHECKING:
    from toolkit.worker.serving.engine import Engine
    from toolkit.worker.serving.stream_answer import GeneratedAnswer, GenerationRequest

MAX_WAITING_REQUESTS = 64
"""Requests, running ones included; further ones are rejected, so that no client waits without an end."""
MAX_CONCURRENT_ANSWERS = 8
"""Two playgrounds of four columns; each answer keeps a key-value cache of its tokens in memory."""
SECONDS_TO_REPORT_FAILURE = 60.0
"""A failed load is reported for this long before the process ends: the pages ask every few seconds."""
IDLE_CHECK_SECONDS = 1.0


class AnswerStream:
    """The events of one answer from a computing thread to a connection: pieces of text, then the answer or an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: asyncio.Queue[TextPiece | GeneratedAnswer | Exception] = asyncio.Queue()
        self.cancelled = threading.Event()

    def emit(self, event: TextPiece | GeneratedAnswer | Exception) -> None:
        """Add an event. Call it on a computing thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class EngineHost:
    """Owner of the engine and its threads. Call `begin` once the event loop runs; `end` ends the process."""

    def __init__(self, save_dir: Path, run_id: str, idle_seconds: float, end: Callable[[], None]) -> None:
        self.save_dir, self.run_id, self._idle_seconds, self._end = save_dir, run_id, idle_seconds, end
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.phase, self.message, self.hint = "loading libraries", "", ""
        self.engine: Engine | None = None
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._answering = ThreadPoolExecutor(MAX_CONCURRENT_ANSWERS, thread_name_prefix="answer")
        self._streams: set[AnswerStream] = set()
        self._scores = 0
        self._state_lock = threading.Lock()
        self._queued_attaches = 0  # runs to attach that were requested while the base model was loading
        self._began = self._used = time.monotonic()
        self._watcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to load the model."""
        self._computing.submit(self._load)
        self._watcher = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Cancel everything in progress; the computing threads end with the process."""
        if self._watcher is not None:
            self._watcher.cancel()
        for stream in list(self._streams):
            stream.cancelled.set()
        self._computing.shutdown(wait=False, cancel_futures=True)
        self._answering.shutdown(wait=False, cancel_futures=True)

    def end(self) -> None:
        """End the process."""
        self._end()

    def reset_idle_clock(self) -> None:
        """Note that the engine is in use."""
        self._used = time.monotonic()

    def health(self) -> dict[str, Any]:
        """Return the body of GET /health."""
        engine = self.engine
        return {
            "status": self.state,
            "phase": self.phase,
            "message": self.message,
            "hint": self.hint,
            "progress": None,  # the libraries do not report how far a load is
            "seconds": round(time.monotonic() - self._began, 1),
            "runs": list(engine.runs) if engine else [],
            "base": engine.base_name if engine else "",
            "waiting": self.waiting,
            **self._memory(),
        }

    def _memory(self) -> dict[str, int]:
        if self.engine is None:
            return {}
        from toolkit.worker.process.memory import read_process_memory  # imports torch, which is loaded by now

        return read_process_memory()

    def ready(self) -> Engine:
        """Return the loaded engine. Raises RequestError: it is still loading, or loading failed."""
        if self.engine is None or self.state != "ready":
            if self.state == "failed":
                raise RequestError(self.message, self.hint, status=503, code="load_failed")
            message = f"The model is not ready yet: {self.phase}."
            raise RequestError(message, "Wait until the model is loaded.", status=503, code="loading")
        return self.engine

    def ask(self, request: GenerationRequest) -> AnswerStream:
        """Queue an answer. Raises RequestError: the engine is not ready, or too many requests are waiting."""
        engine = self._ready_for_request()
        stream = AnswerStream(asyncio.get_running_loop())
        self._streams.add(stream)
        done = asyncio.wrap_future(self._answering.submit(self._answer, engine, request, stream))
        done.add_done_callback(lambda _: self._streams.discard(stream))
        return stream

    def score(self, request: ScoreRequest) -> Future[list[TokenScore]]:
        """Queue the scores of an expected answer. Raises RequestError: as `ask`; the future raises it too."""
        engine = self._ready_for_request()
        config = engine.config_for_model(request.model, request.prompt_of)
        self.reset_idle_clock()
        arguments = (request.model, config, request.prompt, request.completion, request.top_logprobs, request.history)
        self._scores += 1
        future = self._answering.submit(engine.score_completion, *arguments)
        asyncio.wrap_future(future).add_done_callback(self._note_scored)
        return future

    def _note_scored(self, future: asyncio.Future[list[TokenScore]]) -> None:
        self._scores -= 1
        self.reset_idle_clock()
        if not future.cancelled():
            future.exception()  # the caller gets it; reading it here keeps asyncio from logging it as unhandled

    def _ready_for_request(self) -> Engine:
        """Return the engine; raise RequestError if it is not ready or too many requests are waiting."""
        engine = self.ready()
        if self.waiting >= MAX_WAITING_REQUESTS:
            message = f"{MAX_WAITING_REQUESTS} requests are already waiting."
            raise RequestError(message, "Try again later.", status=429, code="busy")
        return engine

    @property
    def waiting(self) -> int:
        """Number of requested answers and scores that are not finished."""
        return len(self._streams) + self._scores

    def attach(self, run_id: str) -> Future[None]:
        """Queue attaching a run's adapter; the future raises ToolkitError."""
        with self._state_lock:
            if self.state != "loading":
                return self._computing.submit(self._attach, run_id)
            self._queued_attaches += 1
            return self._computing.submit(self._attach_while_loading, run_id)

    def _answer(self, engine: Engine, request: GenerationRequest, stream: AnswerStream) -> None:
        if stream.cancelled.is_set():
            return
        self.reset_idle_clock()
        try:
            stream.emit(engine.answer(request, stream.emit, stream.cancelled))
        except Exception as error:  # noqa: BLE001 - sent to the client as the last event of the stream
            stream.emit(as_toolkit_error(error, ENGINE_SERVICE))
        self.reset_idle_clock()

    def _attach(self, run_id: str) -> None:
        if self.engine is None:
            raise RequestError(self.message or "No model is loaded.", self.hint, status=503, code="load_failed")
        try:
            self.engine.attach(run_id)
        except Exception as error:
            raise as_toolkit_error(error, ENGINE_SERVICE) from error

    def _attach_while_loading(self, run_id: str) -> None:
        try:
            self._attach(run_id)
        finally:
            with self._state_lock:
                self._queued_attaches -= 1

    def _mark_ready(self) -> None:
        """Set the state "ready" after all queued runs are attached, so that clients who wait for it find them."""
        with self._state_lock:
            if self._queued_attaches:
                self._computing.submit(self._mark_ready)
            else:
                self.state, self.phase = "ready", "ready"

    def _load(self) -> None:
        warnings.simplefilter("ignore")  # transformers warns about renames, and about settings that are checked here
        try:
            libraries.import_libraries()
            from toolkit.worker.serving.engine import Engine  # takes seconds; /health answers in the meantime

            self.engine = Engine.load(self.save_dir, self.run_id, self._set_phase)
            self._mark_ready()
        except Exception as error:  # noqa: BLE001 - reported by /health
            shown = as_toolkit_error(error, ENGINE_SERVICE)
            self.message, self.hint, self.state = shown.message, shown.hint, "failed"
        self.reset_idle_clock()

    def _set_phase(self, phase: str) -> None:
        self.phase = phase

    async def _watch(self) -> None:
        """End the process when it has been idle for long, or some time after a failed load."""
        while True:
            await asyncio.sleep(IDLE_CHECK_SECONDS)
            idle = time.monotonic() - self._used
            if self.state == "failed" and idle > SECONDS_TO_REPORT_FAILURE:
                self._end()
            if self.state == "ready" and not self.waiting and 0 < self._idle_seconds < idle:
                print(f"The engine was idle for {idle:.0f} s and ends.", file=sys.stderr, flush=True)
                self._end()

"""The engine's life inside the server: loading, one thread that computes, its queue, and when to end.

The heavy libraries are imported on that thread, after the server has begun to answer. AT_ONCE answers take turns with
the model; more wait in the order in which they were asked for. Knows no HTTP.
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
MAX_CONCURRENT_ANSWERS = 8
"""Each holds the keys and values of its own tokens: two playgrounds of four columns."""
SECONDS_TO_REPORT_FAILURE = 60.0
IDLE_CHECK_SECONDS = 1.0


class AnswerStream:
    """One answer on its way from the computing thread to a connection: pieces of text, then an Answer or an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: asyncio.Queue[TextPiece | GeneratedAnswer | Exception] = asyncio.Queue()
        self.cancelled = threading.Event()

    def emit(self, event: TextPiece | GeneratedAnswer | Exception) -> None:
        """Called on a computing thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


class EngineHost:
    """`begin` once the event loop runs; `end` is called when the process should end."""

    def __init__(self, save_dir: Path, run_id: str, idle_seconds: float, end: Callable[[], None]) -> None:
        self.save_dir, self.run_id, self._idle_seconds, self._end = save_dir, run_id, idle_seconds, end
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.phase, self.message, self.hint = "loading libraries", "", ""
        self.engine: Engine | None = None
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._answering = ThreadPoolExecutor(MAX_CONCURRENT_ANSWERS, thread_name_prefix="answer")
        self._turns: set[AnswerStream] = set()
        self._scores = 0
        self._refused: dict[str, str] = {}
        self._guard = threading.Lock()
        self._early = 0  # runs asked for while the base loads, not attached yet
        self._began = self._used = time.monotonic()
        self._watcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._computing.submit(self._load)
        self._watcher = asyncio.create_task(self._watch())

    def close(self) -> None:
        """Cancel what is going on; the thread ends with the process."""
        if self._watcher is not None:
            self._watcher.cancel()
        for turn in list(self._turns):
            turn.cancelled.set()
        self._computing.shutdown(wait=False, cancel_futures=True)
        self._answering.shutdown(wait=False, cancel_futures=True)

    def end(self) -> None:
        self._end()

    def touch(self) -> None:
        """Somebody uses the engine: the idle clock starts again."""
        self._used = time.monotonic()

    def health(self) -> dict[str, Any]:
        engine = self.engine
        return {
            "status": self.state,
            "phase": self.phase,
            "message": self.message,
            "hint": self.hint,
            "progress": None,  # the libraries do not tell how far a load is
            "seconds": round(time.monotonic() - self._began, 1),
            "runs": list(engine.runs) if engine else [],
            "base": engine.base_name if engine else "",
            "waiting": self.waiting,
            **self._memory(),
        }

    def _memory(self) -> dict[str, int]:
        if self.engine is None:
            return {}
        from toolkit.worker.process.memory import read_process_memory  # torch is there by now

        return read_process_memory()

    def ready(self) -> Engine:
        """The loaded engine; raises RequestError while there is none."""
        if self.engine is None or self.state != "ready":
            if self.state == "failed":
                raise RequestError(self.message, self.hint, status=503, code="load_failed")
            raise RequestError(f"The model is not ready: {self.phase}.", "Wait a little.", status=503, code="loading")
        return self.engine

    def ask(self, ask: GenerationRequest) -> AnswerStream:
        """Queue an answer; raises RequestError when too many wait already."""
        engine = self._free()
        turn = AnswerStream(asyncio.get_running_loop())
        self._turns.add(turn)
        done = asyncio.wrap_future(self._answering.submit(self._answer, engine, ask, turn))
        done.add_done_callback(lambda _: self._turns.discard(turn))
        return turn

    def score(self, asked: ScoreRequest) -> Future[list[TokenScore]]:
        """The figures of an expected answer, when its turn comes; raises RequestError as `ask`, the future too."""
        engine = self._free()
        form = engine.config_for_model(asked.model, asked.prompt_of)
        self.touch()
        parts = (asked.model, form, asked.prompt, asked.completion, asked.top_logprobs, asked.history)
        self._scores += 1
        future = self._answering.submit(engine.score, *parts)
        asyncio.wrap_future(future).add_done_callback(self._scored)
        return future

    def _scored(self, future: asyncio.Future[list[TokenScore]]) -> None:
        self._scores -= 1
        self.touch()
        if not future.cancelled():
            future.exception()  # whoever asked is told; this looks at it so that nobody warns of it once more

    def _free(self) -> Engine:
        """The loaded engine; raises RequestError while there is none, or when too many wait already."""
        engine = self.ready()
        if self.waiting >= MAX_WAITING_REQUESTS:
            raise RequestError(
                f"{MAX_WAITING_REQUESTS} requests wait already.", "Try again later.", status=429, code="busy"
            )
        return engine

    @property
    def waiting(self) -> int:
        """Answers and figures that are asked for and not given yet."""
        return len(self._turns) + self._scores

    def attach(self, run_id: str) -> Future[None]:
        """Add a run's adapter when its turn comes; the future raises ToolkitError."""
        with self._guard:
            if self.state != "loading":
                return self._computing.submit(self._attach, run_id)
            self._early += 1
            return self._computing.submit(self._attach_early, run_id)

    def refusal(self, run_id: str) -> str:
        """Why attaching that run failed, or ""."""
        return self._refused.get(run_id, "")

    def _answer(self, engine: Engine, ask: GenerationRequest, turn: AnswerStream) -> None:
        if turn.cancelled.is_set():
            return
        self.touch()
        try:
            turn.emit(engine.answer(ask, turn.emit, turn.cancelled))
        except Exception as error:  # noqa: BLE001 - raised again by whoever closes the page
            turn.emit(as_toolkit_error(error, ENGINE_SERVICE))
        self.touch()

    def _attach(self, run_id: str) -> None:
        if self.engine is None:
            raise RequestError(self.message or "No model is loaded.", self.hint, status=503, code="load_failed")
        try:
            self._refused.pop(run_id, None)
            self.engine.attach(run_id)
        except Exception as error:
            shown = as_toolkit_error(error, ENGINE_SERVICE)
            self._refused[run_id] = str(shown)
            raise shown from error

    def _attach_early(self, run_id: str) -> None:
        try:
            self._attach(run_id)
        finally:
            with self._guard:
                self._early -= 1

    def _open(self) -> None:
        """Ready, behind every run that was asked for meanwhile: who waits for "ready" finds them attached."""
        with self._guard:
            if self._early:
                self._computing.submit(self._open)
            else:
                self.state, self.phase = "ready", "ready"

    def _load(self) -> None:
        warnings.simplefilter("ignore")  # transformers announces renames, and advises on settings that are checked
        try:
            libraries.import_libraries()
            from toolkit.worker.serving.engine import Engine  # seconds of imports: /health answers meanwhile

            self.engine = Engine.load(self.save_dir, self.run_id, self._enter)
            self._open()
        except Exception as error:  # noqa: BLE001 - raised again by whoever closes the page
            shown = as_toolkit_error(error, ENGINE_SERVICE)
            self.message, self.hint, self.state = shown.message, shown.hint, "failed"
        self.touch()

    def _enter(self, phase: str) -> None:
        self.phase = phase

    async def _watch(self) -> None:
        """End the process when nobody has used it for long, or after a failed load has been on view for a while."""
        while True:
            await asyncio.sleep(IDLE_CHECK_SECONDS)
            idle = time.monotonic() - self._used
            if self.state == "failed" and idle > SECONDS_TO_REPORT_FAILURE:
                self._end()
            if self.state == "ready" and not self.waiting and 0 < self._idle_seconds < idle:
                print(f"Not used for {idle:.0f} s: ending.", file=sys.stderr, flush=True)
                self._end()

"""The processes that answer questions about a model, which end when one takes too long or too much memory.

A model's chat template and tokenizer compute whatever their author wrote: without end, or with all memory. Each lane of
the background worker has a process for them. It is replaced when it made no progress for STALL_SECONDS, when it died,
and when its question was canceled and it does not notice. Messages on its socket are JSON lines:

    to it     {"answers": dotted name of a function, "kind", "body"}, or {"cancel": true} meanwhile
    from it   {"pid"} first; {"phase", "done", "total", "patient"}; {"value"}, {"error": {...}} or {"cancelled": true}

On Linux it is forked from a process that has only imported the libraries (`AnswerForks`): it starts in milliseconds and
shares their memory. Elsewhere, and with a GPU driver in use, each is a new process.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from toolkit.errors import ToolkitError
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.system.out_of_memory import out_of_memory_kind
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.printable import format_bytes
from toolkit.system.private_files import restrict_new_files
from toolkit.system.spawn import reap_in_background
from toolkit.worker.process import libraries
from toolkit.worker.process.limits import end_with_parent, limit_memory_growth
from toolkit.worker.questions.question_job import JobCancelled, QuestionJob
from toolkit.worker.serving.guard import as_toolkit_error

STALL_SECONDS = 60.0
"""Seconds without progress after which a question is ended; batches take a fraction of a second."""
DOWNLOAD_SECONDS = 1800.0
"""The same while files are downloaded, which the Hub's own timeouts bound."""
CANCEL_SECONDS = 2.0
"""Seconds in which a canceled question may end by itself; a new process has to load its tokenizer again."""
ANSWER_MEMORY_BYTES = 3 << 30
"""Memory that a process may take in addition to the libraries: the largest tokenizers take a third of it."""
POLL_SECONDS = 0.2
RECEIVED_BYTES = 1 << 20


class AnswerForks:
    """A process that imports the libraries and forks one answering process after the other.

    Create it while this process has one thread only.
    """

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._forks = sys.platform == "linux"
        if self._forks and os.fork() == 0:
            self._connection.close()
            _run_and_leave(partial(_serve_forks, theirs))
        theirs.close()

    def wait_for_imports(self) -> ToolkitError | None:
        """Wait until the libraries are imported, and return why they can't be."""
        if not self._forks:
            return None
        message = _Lines(self._connection).wait(None)
        self._forks = bool(message and message["forks"])
        return _read_error(message["error"]) if message and message["error"] else None

    def start(self) -> AnswerProcess:
        """Return a new answering process."""
        ours, theirs = socket.socketpair()
        with theirs:
            if self._forks:
                with suppress(OSError), self._lock:  # it may have been killed, which a new process does not need
                    socket.send_fds(self._connection, [b"f"], [theirs.fileno()])
                    return AnswerProcess(ours)
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            reap_in_background(process, "answers")
            return AnswerProcess(ours)

    def close(self) -> None:
        """End the process; those that were forked from it end with it."""
        self._connection.close()


class AnswerProcess:
    """One answering process, seen from the background worker. idle: whether it waits for a question."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines, self.idle = connection, _Lines(connection), True
        hello = self._lines.wait(STALL_SECONDS)
        self._pid = int(hello["pid"]) if hello else 0
        # it waits for its first question, so the number is still its own
        self._handle = os.pidfd_open(self._pid) if self._pid and hasattr(os, "pidfd_open") else None

    def answer(self, job: QuestionJob, answers: str) -> dict[str, Any]:
        """Return the answer of the function `answers`. Raises JobCancelled, ToolkitError, or AnswerLost."""
        self.idle = False
        self._send({"answers": answers, "kind": job.kind, "body": dict(job.body)})
        heard, cancelled, patient = time.monotonic(), 0.0, False
        while True:
            message = self._lines.wait(POLL_SECONDS)
            now = time.monotonic()
            if job.cancelled.is_set() and not cancelled:
                cancelled = now
                self._send({"cancel": True})
            if message is None:
                if self._lines.ended:
                    raise AnswerLost(f"ended unexpectedly: it crashed, or needed over {_MEMORY} of memory")
                if cancelled and now - cancelled > CANCEL_SECONDS:
                    raise JobCancelled
                limit = DOWNLOAD_SECONDS if patient else STALL_SECONDS
                if now - heard > limit:
                    raise AnswerLost(f"made no progress for {limit:.0f} s and was stopped")
                continue
            heard, self.idle = now, "phase" not in message
            if "value" in message:
                return dict(message["value"])
            if "error" in message:
                raise _read_error(message["error"])
            if "cancelled" in message:
                raise JobCancelled
            patient = message["patient"]
            job.phase, job.done, job.total = message["phase"], message["done"], message["total"]

    @property
    def ended(self) -> bool:
        """Whether the process has ended, for example because the machine ran out of memory."""
        return bool(select.select([self._connection], [], [], 0)[0])  # it says nothing unless it is asked

    def _send(self, message: Mapping[str, object]) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise AnswerLost("ended unexpectedly") from error

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        with suppress(ProcessLookupError):  # it has ended by itself
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                os.close(self._handle)
                self._handle = None
            elif self._pid:
                os.kill(self._pid, signal.SIGKILL)
        self._pid = 0


class AnswerLost(Exception):
    """The process gave no answer. Its text continues "The question about ... "."""


class AnswerLane:
    """Answers one question after the other, in a process that is replaced when it gives no answer."""

    def __init__(self, forks: AnswerForks) -> None:
        self._forks = forks
        self._process: AnswerProcess | None = None

    def answer(self, job: QuestionJob, answers: str) -> dict[str, Any]:
        """Return the answer to a question. Raises JobCancelled, or ToolkitError."""
        process, self._process = self._process, None
        if process is not None and process.ended:
            process.kill()
            process = None
        process = process or self._forks.start()
        try:
            return process.answer(job, answers)
        except AnswerLost as lost:
            raise _describe_loss(job, lost) from lost
        finally:
            if process.idle:
                self._process = process
            else:
                process.kill()


_MEMORY = format_bytes(ANSWER_MEMORY_BYTES)


def _describe_loss(job: QuestionJob, lost: AnswerLost) -> ToolkitError:
    model = job.body.get("config", {}).get("model", {}).get("hf_model_ckpt")
    subject = f"tokenizer or chat template of '{model}'" if model else "tokenizer or chat template"
    hint = "Choose another base model, or correct its chat template. A very long row can be the cause as well."
    return ToolkitError(f"A question to the {subject} {lost}.", hint)


class _Lines:
    """JSON lines that arrive on a socket. ended: whether the other side has closed it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received, self.ended = connection, bytearray(), False

    def wait(self, seconds: float | None) -> dict[str, Any] | None:
        """Return the next message; None if none arrives in time, or at the end."""
        while b"\n" not in self._received and not self.ended:
            if not select.select([self._connection], [], [], seconds)[0]:
                return None
            try:
                part = self._connection.recv(RECEIVED_BYTES)
            except ConnectionError:  # the process was killed with messages unread
                part = b""
            self.ended = not part
            self._received += part
        line, found, rest = self._received.partition(b"\n")
        if not found:
            return None
        self._received = rest
        message: dict[str, Any] = json.loads(line)
        return message


class _ReportedJob(QuestionJob):
    """A question, seen from the process that answers it."""

    connection: socket.socket

    def report_progress(self, phase: str, done: int = 0, total: int = 0, *, patient: bool = False) -> None:
        if select.select([self.connection], [], [], 0)[0]:
            raise JobCancelled
        _send_message(self.connection, phase=phase, done=done, total=total, patient=patient)


def answer_questions(connection: socket.socket) -> None:
    """Answer the questions that arrive on the socket until it is closed."""
    restrict_new_files()
    limit_memory_growth(ANSWER_MEMORY_BYTES)
    _send_message(connection, pid=os.getpid())
    lines = _Lines(connection)
    while (question := lines.wait(None)) is not None:
        if "answers" in question:  # and not a late cancel
            _send_message(connection, **_answer(question, connection))


def _answer(question: Mapping[str, Any], connection: socket.socket) -> dict[str, Any]:
    job = _ReportedJob(question["kind"], question["body"])
    job.connection = connection
    module, _, name = question["answers"].rpartition(".")
    try:
        answer: Callable[[Mapping[str, Any], QuestionJob], dict[str, Any]] = getattr(
            importlib.import_module(module), name
        )
        return {"value": answer(job.body, job)}
    except JobCancelled:
        return {"cancelled": True}
    except MemoryError:
        error = _describe_loss(job, AnswerLost(f"needed over {_MEMORY} of memory and was stopped"))
    except Exception as raised:  # noqa: BLE001 - sent to the background worker, which shows it
        error = as_toolkit_error(raised, WARM_SERVICE)
        if _is_of_model(raised):
            error = _describe_loss(job, AnswerLost(f"failed: {error.message.rstrip('.')}"))
    except BaseException as raised:
        if type(raised).__name__ != "PanicException":  # of the tokenizers library, and no Exception
            raise
        error = _describe_loss(job, AnswerLost(f"failed inside the library: {str(raised)[:200]}"))
    return {"error": _dump_error(error)}


def _is_of_model(error: Exception) -> bool:
    """Return whether the error arose in a library that works with the model's files, and not in code of this project.

    Errors in words say themselves what is wrong, and those of the system are about files and memory.
    """
    if isinstance(error, ToolkitError | OSError) or out_of_memory_kind(error) is not None:
        return False
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    is_ours = place.startswith(str(PROJECT_ROOT)) and "site-packages" not in place
    # the compiled library of tokenizers has no frames, and raises nothing more special than Exception
    return isinstance(error, RecursionError) or type(error) is Exception or not is_ours


def _serve_forks(connection: socket.socket) -> None:
    """Import the libraries, and fork an answering process for each descriptor that arrives."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then removes ended processes
    warnings.simplefilter("ignore", FutureWarning)  # transformers warns about renames in later versions
    error = None
    try:
        libraries.import_libraries()
    except Exception as raised:  # noqa: BLE001 - sent to the background worker, which shows it
        error = _dump_error(as_toolkit_error(raised, WARM_SERVICE))
    _send_message(connection, error=error, forks=libraries.can_fork())
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run_and_leave(partial(answer_questions, socket.socket(fileno=descriptors[0])))
        os.close(descriptors[0])


def _run_and_leave(work: Callable[[], None]) -> NoReturn:
    """Run `work` in a fork and end it there, together with its parent and without the parent's cleanup."""
    status = 1
    try:
        end_with_parent()
        work()
        status = 0
    except BrokenPipeError:
        status = 0  # the background worker has ended
    finally:
        sys.stderr.flush()
        os._exit(status)


def _send_message(connection: socket.socket, **fields: object) -> None:
    connection.sendall(json.dumps(fields).encode() + b"\n")


def _dump_error(error: ToolkitError) -> dict[str, str]:
    return {"message": error.message, "hint": error.hint}


def _read_error(error: Mapping[str, str]) -> ToolkitError:
    return ToolkitError(error["message"], error["hint"])


if __name__ == "__main__":
    libraries.import_libraries()
    answer_questions(socket.socket(fileno=int(sys.argv[1])))

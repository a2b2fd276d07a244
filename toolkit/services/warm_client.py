"""Client of the background worker, which has imported the training libraries and answers questions of the app.

One background worker serves a save_dir. It is started for the first question, shared by all programs, and replaced when
it has died or the code has changed. It exits when its app has ended, after a long time without questions, or when
memory runs short. A question has a kind and a JSON body:

    poll_warm_question(save_dir, "xray", body)                   never waits: for a page that is drawn again
    poll_warm_question(save_dir, "lengths", body, lane=session)  a long question: `fraction` tells the progress, and a
                                                                 newer question in the same lane replaces it
    ask_warm_worker(save_dir, "xray", body)                      waits for the value: for the command line and tests

A question that is asked again while it is in progress is answered once. The kinds, their bodies and their values are
described in `worker/questions/registry.py`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import WarmError
from toolkit.services import service_http, service_process, warm_process
from toolkit.services.warm_process import WARM_SERVICE, WarmInfo, find_warm_worker, is_warm_worker_disabled
from toolkit.system.build_id import build_id

_QUICK_SECONDS = 15.0
_POLL_SECONDS = 0.1
_EXIT_SECONDS = 0.5
_RETRY_SECONDS = 30.0
"""After a failed start, or after several deaths within this time, no start is tried for so long."""
_MAX_RECENT_STARTS = 3
"""Deaths within `_RETRY_SECONDS` after which they no longer look like coincidence."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionState:
    """The state of a question.

    state: "starting" (no worker yet), "working", "done", "failed", or "off" (no worker will be started).
    phase: what is in progress, in words. done, total: progress of a long question, 0 when it has none.
    value: the answer when done. message, hint: why it failed or is off.
    """

    state: Literal["starting", "working", "done", "failed", "off"]
    phase: str = ""
    done: int = 0
    total: int = 0
    value: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    hint: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the state will not change unless the question is asked again."""
        return self.state in ("done", "failed", "off")

    @property
    def fraction(self) -> float | None:
        """Progress, 0 to 1; None while unknown."""
        return min(1.0, self.done / self.total) if self.total else None


@dataclass
class _Starter:
    """Starts of a background worker for one save_dir.

    began: times of the recent ones (time.monotonic()). in_progress: changed only with _GUARD held, unlike
    `thread.is_alive()`.
    """

    began: list[float]
    in_progress: bool = True
    thread: threading.Thread = field(init=False)
    failed: WarmError | None = None
    failed_at: float = 0.0


_STARTERS: dict[Path, _Starter] = {}
_GUARD = threading.Lock()


def ensure_warm_worker(save_dir: Path, *, after: float = 0.0) -> None:
    """Start a background worker if there is none. Returns at once and raises nothing.

    Call it when a question is likely to follow. after: seconds before this program's first start, so that more urgent
    work is not slowed down.
    """
    save_dir = save_dir.absolute()
    with _GUARD:
        if _current_worker(save_dir) is None and not is_warm_worker_disabled():
            _start_in_background(save_dir, after if save_dir not in _STARTERS else 0.0)


def poll_warm_question(
    save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", wait: float = 0.0
) -> QuestionState:
    """Return the state of a question; ask it, and start a worker, if necessary.

    lane: identifies the asker. A different body of the same kind in the same lane replaces the earlier question.
    wait: seconds to wait for the answer, at most 10. Raises TypeError for a body that is not JSON; failures of the
    worker are states.
    """
    save_dir = save_dir.absolute()
    request = {"kind": kind, "body": dict(body), "lane": lane, "wait": wait}
    json.dumps(request)  # raises for a body that is not JSON, even while there is no worker to send it to
    info = _current_worker(save_dir)
    if info is not None:
        try:
            with service_http.connect_to_service(info, _QUICK_SECONDS + wait) as http:
                return QuestionState(**service_http.read_service_reply(WARM_SERVICE, http.post("/look", json=request)))
        except WarmError as error:
            if not _has_ended(info):
                return QuestionState("failed", message=error.message, hint=error.hint)
    if is_warm_worker_disabled():
        return QuestionState(
            "off", message="The background worker is turned off.", hint="Start the app without FTK_WARM=off."
        )
    return _start_and_report(save_dir)


def ask_warm_worker(
    save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", timeout: float = 120
) -> dict[str, Any]:
    """Wait for the answer to a question and return it.

    Raises WarmError when the question fails, when there is no worker, or after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        wait = max(0.0, min(2.0, deadline - time.monotonic()))
        current = poll_warm_question(save_dir, kind, body, lane=lane, wait=wait)
        if current.state == "done":
            return current.value
        if current.is_final:
            raise WarmError(current.message, current.hint)
        if time.monotonic() > deadline:
            raise WarmError(f"There was no answer within {timeout:.0f} s ({current.phase}).", WARM_SERVICE.stuck)
        time.sleep(_POLL_SECONDS)


def stop_warm_worker(save_dir: Path) -> None:
    """End the background worker and release its memory; return when it has ended. The next question starts one."""
    info = find_warm_worker(save_dir)
    if info is not None:
        service_process.end_service(info, grace_seconds=0.0)


def _current_worker(save_dir: Path) -> WarmInfo | None:
    """Return the running worker; None when there is none or when its code is out of date."""
    info = find_warm_worker(save_dir)
    return info if info is not None and info.build == build_id() else None


def _has_ended(info: WarmInfo) -> bool:
    """Return whether the worker has ended."""
    # the kernel closes the connections of a killed process a moment before it releases its lock
    deadline = time.monotonic() + _EXIT_SECONDS
    while service_process.is_service_alive(info):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS / 5)
    return True


def _start_and_report(save_dir: Path) -> QuestionState:
    with _GUARD:
        error = _start_in_background(save_dir)
    if error is not None:
        return QuestionState("failed", message=error.message, hint=error.hint)
    return QuestionState("starting", phase="starting a process with the training libraries")


def _start_in_background(save_dir: Path, after: float = 0.0) -> WarmError | None:
    """Start a worker in a thread, unless a start is in progress. Call with _GUARD held.

    Returns the error of the last start if it is too early to try again.
    """
    known = _STARTERS.get(save_dir)
    if known is not None and known.in_progress and known.thread.is_alive():
        return None
    now = time.monotonic()
    if known is not None and known.failed is not None and now - known.failed_at < _RETRY_SECONDS:
        return known.failed
    recent = [at for at in known.began if now - at < _RETRY_SECONDS] if known else []
    if len(recent) >= _MAX_RECENT_STARTS:
        log_tail = service_process.read_service_log_tail(WARM_SERVICE, save_dir)
        message = f"The background worker ended {len(recent)} times in a row."
        return WarmError(message, log_tail or "Try again in a minute.")
    starter = _STARTERS[save_dir] = _Starter([*recent, now])
    arguments = (starter, save_dir, after)
    starter.thread = threading.Thread(target=_start, args=arguments, name="background worker", daemon=True)
    starter.thread.start()
    return None


def _start(starter: _Starter, save_dir: Path, after: float) -> None:
    time.sleep(after)
    while starter.in_progress:
        failure = _try_start(save_dir)
        with _GUARD:
            starter.failed, starter.failed_at = failure, time.monotonic()
            # who asked while the code changed was answered "starting", so a worker with the new code must follow
            starter.in_progress = failure is None and _is_outdated(save_dir)


def _try_start(save_dir: Path) -> WarmError | None:
    try:
        warm_process.start_warm_worker(save_dir)
    except (WarmError, OSError) as error:
        failure = error
        if not isinstance(failure, WarmError):
            failure = WarmError("The background worker can't be started.", str(error))
        logger.warning("%s", failure)
        return failure
    return None


def _is_outdated(save_dir: Path) -> bool:
    info = find_warm_worker(save_dir)
    return info is not None and info.build != build_id()

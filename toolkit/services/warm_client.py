"""Asks the warm worker: a process that has imported the training libraries and answers questions about data and models.

The app itself imports no torch. One warm worker serves a save_dir; it is started on the first question, found again by
any other program, replaced without a word when it died or its code changed, and ends by itself when its app is gone,
nobody asks for long, or memory runs short. A question names its kind and carries a JSON body:

    look(save_dir, "xray", body)                  never waits: what is known by now, for a page that draws again
    look(save_dir, "lengths", body, lane=session) a long one: `share` moves, a newer one in the same lane replaces it
    ask(save_dir, "xray", body)                   waits for the value, for a command line or a test
    cancel(save_dir, "lengths", lane=session)     gives a long one up

Asking the same again while it is under way joins it. A new kind is one function in the worker, named in
`worker/questions/registry.py`, which also says what each kind's body and value hold. Nothing of the kinds is known here.
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
"""After a failed start, or several deaths within this time, so long nothing is started again."""
_MAX_RECENT_STARTS = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionState:
    """What is known about a question by now.

    state: "starting" (no worker yet), "working", "done", "failed", or "off" (there will be no worker).
    phase: what is waited for, in words.  done, total: of what a long one counts, 0 when it does not.
    value: the answer when done.  message, hint: why it failed or is off.
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
        """Nothing more will come without asking again."""
        return self.state in ("done", "failed", "off")

    @property
    def fraction(self) -> float | None:
        """How far it is, 0 to 1; None when that is not known."""
        return min(1.0, self.done / self.total) if self.total else None


@dataclass
class _Starter:
    """One start in the background, for one save_dir."""

    thread: threading.Thread
    began: list[float] = field(default_factory=list)
    failed: WarmError | None = None
    failed_at: float = 0.0


_STARTERS: dict[Path, _Starter] = {}
_GUARD = threading.Lock()


def ensure_warm_worker(save_dir: Path, *, after: float = 0.0) -> None:
    """See to it that there is a warm worker; returns at once, raises nothing. Call when one is likely needed.

    after: seconds to wait before the first start by this program, so that something more urgent has the machine.
    """
    save_dir = save_dir.absolute()
    with _GUARD:
        if _current_worker(save_dir) is None and not is_warm_worker_disabled():
            _start_in_background(save_dir, after if save_dir not in _STARTERS else 0.0)


def poll_warm_question(
    save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", wait: float = 0.0
) -> QuestionState:
    """What is known of this question; starts whatever is missing. wait: seconds to wait for the answer, at most 10.

    lane: who asks. A different body of the same kind in the same lane takes the former one's place. Raises nothing
    for what goes wrong in the worker; raises TypeError for a body that is not JSON.
    """
    save_dir = save_dir.absolute()
    asked = {"kind": kind, "body": dict(body), "lane": lane, "wait": wait}
    json.dumps(asked)
    info = _current_worker(save_dir)
    if info is not None:
        try:
            with service_http.connect_to_service(info, _QUICK_SECONDS + wait) as http:
                return QuestionState(**service_http.read_service_reply(WARM_SERVICE, http.post("/look", json=asked)))
        except WarmError as error:
            if not _has_ended(info):
                return QuestionState("failed", message=error.message, hint=error.hint)
    if is_warm_worker_disabled():
        return QuestionState(
            "off", message="The warm worker is switched off.", hint="Start the app without FTK_WARM=off."
        )
    return _start_and_report(save_dir)


def ask_warm_worker(
    save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", timeout: float = 120
) -> dict[str, Any]:
    """The answer, waited for. Raises WarmError when it failed, there is no worker, or `timeout` seconds went by."""
    end = time.monotonic() + timeout
    while True:
        seen = poll_warm_question(save_dir, kind, body, lane=lane, wait=max(0.0, min(2.0, end - time.monotonic())))
        if seen.state == "done":
            return seen.value
        if seen.is_final:
            raise WarmError(seen.message, seen.hint)
        if time.monotonic() > end:
            raise WarmError(f"There was no answer within {timeout:.0f} s ({seen.phase}).", WARM_SERVICE.stuck)
        time.sleep(_POLL_SECONDS)


def cancel_warm_question(save_dir: Path, kind: str, *, lane: str = "") -> None:
    """Give up what is under way in that lane, if anything is."""
    info = find_warm_worker(save_dir)
    if info is None:
        return
    try:
        with service_http.connect_to_service(info, _QUICK_SECONDS) as http:
            service_http.read_service_reply(WARM_SERVICE, http.post("/cancel", json={"kind": kind, "lane": lane}))
    except WarmError as error:
        logger.info("nothing to cancel: %s", error)


def stop_warm_worker(save_dir: Path) -> None:
    """End the warm worker and give its memory back; returns when the process is gone. The next question starts one."""
    info = find_warm_worker(save_dir)
    if info is not None:
        service_process.end_service(info, grace_seconds=0.0)


def _current_worker(save_dir: Path) -> WarmInfo | None:
    """The living worker; None when there is none, or its code is not today's."""
    info = find_warm_worker(save_dir)
    return info if info is not None and info.build == build_id() else None


def _has_ended(info: WarmInfo) -> bool:
    """Whether it is gone. Whoever is being killed loses its connections a moment before its lock."""
    end = time.monotonic() + _EXIT_SECONDS
    while service_process.is_service_alive(info):
        if time.monotonic() > end:
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
    """Start unless a start is going on; why not, when the last ones went wrong. Call with _GUARD held."""
    known = _STARTERS.get(save_dir)
    if known is not None and known.thread.is_alive():
        return None
    now = time.monotonic()
    if known is not None and known.failed is not None and now - known.failed_at < _RETRY_SECONDS:
        return known.failed
    recent = [at for at in known.began if now - at < _RETRY_SECONDS] if known else []
    if len(recent) >= _MAX_RECENT_STARTS:
        words = service_process.read_service_log_tail(WARM_SERVICE, save_dir)
        return WarmError(f"The warm worker ended {len(recent)} times in a row.", words or "Try again in a minute.")
    thread = threading.Thread(target=_start, args=(save_dir, after), name="warm worker", daemon=True)
    _STARTERS[save_dir] = _Starter(thread, [*recent, now])
    thread.start()
    return None


def _start(save_dir: Path, after: float) -> None:
    time.sleep(after)
    try:
        warm_process.start_warm_worker(save_dir)
    except (WarmError, OSError) as error:
        shown = error if isinstance(error, WarmError) else WarmError("The warm worker can't be started.", str(error))
        logger.warning("%s", shown)
        with _GUARD:
            starter = _STARTERS[save_dir]
            starter.failed, starter.failed_at = shown, time.monotonic()

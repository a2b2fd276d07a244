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
from toolkit.services.warm_process import WARM, WarmInfo, find, switched_off
from toolkit.system.build_id import build_id

__all__ = ["Look", "WarmInfo", "ask", "cancel", "find", "keep", "look", "stop"]

QUICK_SECONDS = 15.0
POLL_SECONDS = 0.1
LEAVING_SECONDS = 0.5
RETRY_SECONDS = 30.0
"""After a failed start, or several deaths within this time, so long nothing is started again."""
MOST_DEATHS = 3
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
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
    def over(self) -> bool:
        """Nothing more will come without asking again."""
        return self.state in ("done", "failed", "off")

    @property
    def share(self) -> float | None:
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


def keep(save_dir: Path, *, after: float = 0.0) -> None:
    """See to it that there is a warm worker; returns at once, raises nothing. Call when one is likely needed.

    after: seconds to wait before the first start by this program, so that something more urgent has the machine.
    """
    save_dir = save_dir.absolute()
    with _GUARD:
        if _fresh(save_dir) is None and not switched_off():
            _start_in_background(save_dir, after if save_dir not in _STARTERS else 0.0)


def look(save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", wait: float = 0.0) -> Look:
    """What is known of this question; starts whatever is missing. wait: seconds to wait for the answer, at most 10.

    lane: who asks. A different body of the same kind in the same lane takes the former one's place. Raises nothing
    for what goes wrong in the worker; raises TypeError for a body that is not JSON.
    """
    save_dir = save_dir.absolute()
    asked = {"kind": kind, "body": dict(body), "lane": lane, "wait": wait}
    json.dumps(asked)
    info = _fresh(save_dir)
    if info is not None:
        try:
            with service_http.session(info, QUICK_SECONDS + wait) as http:
                return Look(**service_http.checked(WARM, http.post("/look", json=asked)))
        except WarmError as error:
            if not _ended(info):
                return Look("failed", message=error.message, hint=error.hint)
    if switched_off():
        return Look("off", message="The warm worker is switched off.", hint="Start the app without FTK_WARM=off.")
    return _starting(save_dir)


def ask(save_dir: Path, kind: str, body: Mapping[str, Any], *, lane: str = "", timeout: float = 120) -> dict[str, Any]:
    """The answer, waited for. Raises WarmError when it failed, there is no worker, or `timeout` seconds went by."""
    end = time.monotonic() + timeout
    while True:
        seen = look(save_dir, kind, body, lane=lane, wait=max(0.0, min(2.0, end - time.monotonic())))
        if seen.state == "done":
            return seen.value
        if seen.over:
            raise WarmError(seen.message, seen.hint)
        if time.monotonic() > end:
            raise WarmError(f"There was no answer within {timeout:.0f} s ({seen.phase}).", WARM.stuck)
        time.sleep(POLL_SECONDS)


def cancel(save_dir: Path, kind: str, *, lane: str = "") -> None:
    """Give up what is under way in that lane, if anything is."""
    info = find(save_dir)
    if info is None:
        return
    try:
        with service_http.session(info, QUICK_SECONDS) as http:
            service_http.checked(WARM, http.post("/cancel", json={"kind": kind, "lane": lane}))
    except WarmError as error:
        _LOG.info("nothing to cancel: %s", error)


def stop(save_dir: Path) -> None:
    """End the warm worker and give its memory back; returns when the process is gone. The next question starts one."""
    info = find(save_dir)
    if info is not None:
        service_process.end(info, grace_seconds=0.0)


def _fresh(save_dir: Path) -> WarmInfo | None:
    """The living worker; None when there is none, or its code is not today's."""
    info = find(save_dir)
    return info if info is not None and info.build == build_id() else None


def _ended(info: WarmInfo) -> bool:
    """Whether it is gone. Whoever is being killed loses its connections a moment before its lock."""
    end = time.monotonic() + LEAVING_SECONDS
    while service_process.lives(info):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS / 5)
    return True


def _starting(save_dir: Path) -> Look:
    with _GUARD:
        error = _start_in_background(save_dir)
    if error is not None:
        return Look("failed", message=error.message, hint=error.hint)
    return Look("starting", phase="starting a process with the training libraries")


def _start_in_background(save_dir: Path, after: float = 0.0) -> WarmError | None:
    """Start unless a start is going on; why not, when the last ones went wrong. Call with _GUARD held."""
    known = _STARTERS.get(save_dir)
    if known is not None and known.thread.is_alive():
        return None
    now = time.monotonic()
    if known is not None and known.failed is not None and now - known.failed_at < RETRY_SECONDS:
        return known.failed
    recent = [at for at in known.began if now - at < RETRY_SECONDS] if known else []
    if len(recent) >= MOST_DEATHS:
        words = service_process.last_words(WARM, save_dir)
        return WarmError(f"The warm worker ended {len(recent)} times in a row.", words or "Try again in a minute.")
    thread = threading.Thread(target=_start, args=(save_dir, after), name="warm worker", daemon=True)
    _STARTERS[save_dir] = _Starter(thread, [*recent, now])
    thread.start()
    return None


def _start(save_dir: Path, after: float) -> None:
    time.sleep(after)
    try:
        warm_process.start(save_dir)
    except (WarmError, OSError) as error:
        shown = error if isinstance(error, WarmError) else WarmError("The warm worker can't be started.", str(error))
        _LOG.warning("%s", shown)
        with _GUARD:
            starter = _STARTERS[save_dir]
            starter.failed, starter.failed_at = shown, time.monotonic()

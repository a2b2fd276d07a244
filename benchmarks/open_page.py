"""A page that is open, without a browser: speaks the app's websocket as its front end does, and times every rerun.

It runs the page once and obeys each request to look again (`run_every`), so the server does exactly what it does for a
tab; what a browser spends on drawing is not in these figures (`app.py` has it). Knows no page's content.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from tests.browser.server import Server

PATIENCE_S = 280.0
"""On an overloaded machine a first look at ten long logs takes minutes."""


@dataclass(frozen=True)
class Rerun:
    """One run of the page's script, or of a fragment of it. seconds: until the server said that it is done."""

    fragment: str
    seconds: float
    messages: int
    bytes: int


class OpenPage(threading.Thread):
    """Open from start() to close(). reruns: all so far, the first is the page itself."""

    def __init__(self, server: Server, page: str, query: str = "") -> None:
        super().__init__(daemon=True)
        self._server, self._page, self._query = server, page, query
        self.reruns: list[Rerun] = []
        self.ready = threading.Event()
        self._broken: Exception | None = None
        self._leave = threading.Event()
        self._every: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def run(self) -> None:
        try:
            address, headers = f"ws://localhost:{self._server.port}/_stcore/stream", {"Cookie": self._server.cookie()}
            with connect(
                address, additional_headers=headers, subprotocols=["streamlit"], max_size=None, ping_interval=None
            ) as line:  # type: ignore[list-item]
                self._rerun(line, "")
                self.ready.set()
                while not self._leave.is_set():
                    self._look_again(line)
        except Exception as error:  # noqa: BLE001 - raised again by whoever closes the page
            self._broken = error
            self.ready.set()

    def close(self) -> None:
        self._leave.set()
        self.join(PATIENCE_S)
        if self._broken is not None:
            raise self._broken

    def _look_again(self, line: ClientConnection) -> None:
        fragment = min(self._due, key=self._due.__getitem__, default=None)
        now = time.monotonic()
        if fragment is None or self._due[fragment] > now:
            self._leave.wait(0.05 if fragment is None else min(0.05, self._due[fragment] - now))
            return
        self._due[fragment] = now + self._every[fragment]
        self._rerun(line, fragment)

    def _rerun(self, line: ClientConnection, fragment: str) -> None:
        asked = BackMsg()
        asked.rerun_script.page_name = self._page
        asked.rerun_script.query_string = self._query
        asked.rerun_script.fragment_id = fragment
        asked.rerun_script.is_auto_rerun = bool(fragment)
        begun, messages, size = time.monotonic(), 0, 0
        line.send(asked.SerializeToString())
        while True:
            raw = line.recv(PATIENCE_S)
            messages, size = messages + 1, size + len(raw)
            said = ForwardMsg.FromString(raw if isinstance(raw, bytes) else raw.encode())
            kind = said.WhichOneof("type")
            if kind == "new_session" and not fragment:
                self._every.clear()
                self._due.clear()
            elif kind == "auto_rerun":
                self._every[said.auto_rerun.fragment_id] = said.auto_rerun.interval
                self._due[said.auto_rerun.fragment_id] = time.monotonic() + said.auto_rerun.interval
            elif kind == "script_finished" and said.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                break
        self.reruns.append(Rerun(fragment, time.monotonic() - begun, messages, size))

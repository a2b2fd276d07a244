"""Start the real app on a free port for tests and benchmarks, and stop every process that it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import Browser, Page, Playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Server:
    """A running app. save_dir: the folder of its runs, below `cwd`. token: from the link that it has printed."""

    port: int
    save_dir: Path
    process: subprocess.Popen[bytes]
    token: str

    @property
    def url(self) -> str:
        """The address, for a browser that has opened the link."""
        return f"http://localhost:{self.port}"

    def link(self, page: str = "") -> str:
        """The link that opens a page in a browser that has not been here. page: such as "runs?run=ID"."""
        return f"{self.url}/{page}{'&' if '?' in page else '?'}token={self.token}"

    def cookie(self) -> str:
        """The Cookie header of a browser that has opened the link."""
        (pair,) = httpx.get(self.link()).cookies.items()
        return "=".join(pair)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    save_dir: Path, port: int | None = None, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Server:
    """Start the app. flags: further ones of `streamlit run`. environment: further variables."""
    port = port or free_port()
    log = (save_dir.parent / "server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true",
         *flags],
        cwd=ROOT, env={**os.environ, "FINETUNING_TOOLKIT_SAVE_DIR": str(save_dir), **(environment or {})},
        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    log.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/_stcore/health").status_code == 200:
                printed = re.findall(rf"http://localhost:{port}/\?token=(\S+)", Path(log.name).read_text())
                return Server(port, save_dir, process, printed[-1] if printed else "")
        except httpx.TransportError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError((save_dir.parent / "server.log").read_text())


def websocket_status(server: Server, headers: dict[str, str]) -> int:
    """The status of a websocket to the app that is opened with these headers: 101 if it is."""
    address = f"ws://localhost:{server.port}/_stcore/stream"
    try:
        with connect(address, additional_headers=headers, subprotocols=["streamlit"]):  # type: ignore[list-item]
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def stop_everything(server: Server) -> None:
    """Stop the app, and the workers and engines that outlive it by design."""
    server.process.kill()
    server.process.wait(timeout=30)
    mark = str(server.save_dir)
    for process in psutil.process_iter():
        try:
            if process.environ().get("FTK_SAVE_DIR") == mark:
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


@dataclass
class Window:
    """A separate browser with one page. pid: its first process, which a test kills to simulate a crash."""

    browser: Browser
    page: Page
    pid: int

    def die(self) -> None:
        """All of it at once, without a word to the server."""
        members = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for member in members:
            member.kill()
        psutil.wait_procs(members, timeout=30)


def open_window(playwright: Playwright, url: str) -> Window:
    before = {process.pid for process in _browsers()}
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    started = [process for process in _browsers() if process.pid not in before]
    # a fork of the first one has its command line until it becomes a helper
    own = min(started, key=lambda process: (process.create_time(), process.pid)).pid
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(url)
    return Window(browser, page, own)


def _browsers() -> list[psutil.Process]:
    """Return the first processes of the browsers that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if any("--remote-debugging-p" in word for word in words) and not any(w.startswith("--type=") for w in words):
            found.append(process)
    return found


def give(page: Page, file: Path) -> None:
    """Upload a dataset in the first upload box of the Data page; the second is for a test file."""
    box = page.get_by_test_id("stFileUploader").filter(has_text="file, up to")
    # the box of the file before stands beside the new one until the page has run again
    box = box.filter(has_not=page.get_by_test_id("stFileChip"))
    box.locator("input[type=file]").set_input_files(file)

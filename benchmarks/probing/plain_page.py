"""A page with foreign texts, drawn as the app draws them, and what a browser makes of each: run by Streamlit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import streamlit as st
from playwright.sync_api import Page, sync_playwright

from benchmarks.probing.probe import Probe
from benchmarks.probing.texts import foreign_texts
from tests.browser.server import CHROMIUM, FLAGS, free_port
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.printable import strip_control_characters
from toolkit.ui.elements.escape import escape_text

TEXTS_ON_A_PAGE = 150
_READ = """number => {
  const box = document.querySelector(`.st-key-text-${number}`);
  const marked = "a, img, svg, code, pre, strong, em, del, sup, sub, table, h1, h2, h3, li, hr, blockquote, .katex";
  const body = box.querySelector("[data-testid=stMarkdownContainer]");
  const spans = [...body.querySelectorAll("span[style], span[class*=colored], span[role=img]")];
  const colored = spans.filter(one => one.textContent);
  return [body.textContent, [...body.querySelectorAll(marked), ...colored].map(one => one.outerHTML.slice(0, 80))];
}"""


def draw_texts(first: int) -> None:
    """Draw a part of the texts, half of them as paragraphs and half as labels."""
    for number, text in enumerate(foreign_texts()[first : first + TEXTS_ON_A_PAGE], start=first):
        with st.container(key=f"text-{number}"):
            if number % 2:
                st.markdown(escape_text(text))
            else:
                st.checkbox(escape_text(text), key=f"box-{number}")
    st.container(key="drawn").text("drawn")


def plain_probes(folder: Path) -> Iterator[Probe]:
    """Open the page in a browser, part by part."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        __file__,
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            texts = foreign_texts()
            for first in range(0, len(texts), TEXTS_ON_A_PAGE):
                _open_part(page, port, first)
                for number, text in enumerate(texts[first : first + TEXTS_ON_A_PAGE], start=first):
                    yield Probe("plain", repr(text[:60]), partial(_find_markup, page, number, text), isolated=False)
            foreign = [
                url for url in asked if f"localhost:{port}" not in url and not url.startswith(("data:", "blob:"))
            ]
            yield Probe("plain", "requests to other servers", lambda: ", ".join(foreign[:3]), isolated=False)
    finally:
        process.kill()
        process.wait()


def _open_part(page: Page, port: int, first: int) -> None:
    for _ in range(120):
        try:
            page.goto(f"http://localhost:{port}/?first={first}")
            break
        except Exception:  # noqa: BLE001 - it is being started
            page.wait_for_timeout(500)
    page.locator(".st-key-drawn").wait_for(timeout=120_000)
    page.wait_for_timeout(1_000)


def _find_markup(page: Page, number: int, text: str) -> str:
    page.locator(f".st-key-text-{number} [data-testid=stMarkdownContainer]").first.wait_for(
        timeout=30_000, state="attached"
    )
    shown, markup = page.evaluate(_READ, number)
    line = " ".join(strip_control_characters(text).split())
    expected = line if len(line) <= 200 else line[:199] + "…"
    if markup:
        return f"became {markup[:2]}"
    return "" if " ".join(shown.split()) == expected else f"shown as {shown[:100]!r}"


if __name__ == "__main__":
    draw_texts(int(st.query_params.get("first", 0)))

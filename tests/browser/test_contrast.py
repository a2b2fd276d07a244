"""Every page in both themes: text has the contrast of WCAG AA (4.5 to 1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from playwright.sync_api import TimeoutError as Late

from tests.browser.server import Server

PAGES = {
    "": "Finetuning Toolkit",
    "configure": "Configure",
    "runs": "Runs",
    "playground": "Playground",
    "studies": "Studies",
}
SCRIPT = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Browser, server: Server, theme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    weak = {}
    for path, title in PAGES.items():
        page.goto(server.link(path))
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
        try:  # Streamlit fades stale elements while a page reruns, so the check waits until it passes
            good = f"() => {{ const found = ({SCRIPT})(); return found.texts > 10 && !found.weak.length }}"
            page.wait_for_function(good, timeout=20_000)
        except Late:
            weak[title] = page.evaluate(SCRIPT)
    context.close()
    assert not weak

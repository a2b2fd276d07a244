"""Take docs/runs.png, the README's picture: python docs/take_picture.py [SAVE_DIR]

Without a SAVE_DIR it trains the demo first; with one it shows the newest run there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import sync_playwright

from tests.browser.server import CHROMIUM, FLAGS, start_server, stop_everything

PICTURE = Path(__file__).with_name("runs.png")
SIZE = {"width": 1280, "height": 1000}
MINUTE = 60_000


def main(save_dir: Path, *, train: bool) -> None:
    """Open the Runs page of a server on save_dir and write the picture."""
    save_dir.mkdir(parents=True, exist_ok=True)
    server = start_server(save_dir)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
            page.goto(server.link("" if train else "runs"))
            if train:
                page.get_by_role("button", name="Try it now").click(timeout=2 * MINUTE)
            page.get_by_role("button", name="Chat", exact=True).wait_for(timeout=10 * MINUTE)
            page.locator(".js-plotly-plot").first.wait_for(timeout=MINUTE)
            page.wait_for_timeout(3_000)
            page.screenshot(path=PICTURE)
            browser.close()
    finally:
        stop_everything(server)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute(), train=False)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "experiments", train=True)

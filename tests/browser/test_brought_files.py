"""Files that people bring, in the browser: each is uploaded, and what Start would train is what its owner meant."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.server import Server, give

WAIT = 90_000
"""Milliseconds."""
BROUGHT = Path(__file__).parent.parent / "fixtures" / "brought"
TOOL = {"name": "find", "description": "Find a thing.", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "find", "arguments": {}}}
ASKED = [f"Where do I find lamp {at}?" for at in range(12)]


def use(page: Page, server: Server, file: Path, **expected: Any) -> None:
    """Upload a file, and wait until the page shows it and Start would use the expected data settings."""
    give(page, file)
    expect(page.locator(".st-key-dataset")).to_contain_text(file.name, timeout=WAIT)
    expect_settings(page, server, **expected)


def expect_settings(page: Page, server: Server, **expected: Any) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while (found := data_settings(server, expected)) != expected and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    assert found == expected


def data_settings(server: Server, wanted: Collection[str]) -> dict[str, Any]:
    draft = server.save_dir / "draft.json"
    data = json.loads(draft.read_text())["draft"]["data"] if draft.exists() else {}
    return {name: data.get(name) for name in wanted}


def lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return file


def expect_words(page: Page, words: str) -> None:
    """Wait for words that the page shows: the cells of a table have them as well, unseen."""
    expect(page.get_by_text(words).filter(visible=True).first).to_be_visible(timeout=WAIT)


def test_each_file_trains_what_its_owner_meant(page: Page, server: Server, tmp_path: Path) -> None:
    page.get_by_text("Upload", exact=True).first.click()
    completion = page.get_by_label("Completion template").last

    file = BROUGHT / "s01_alpaca_blank_input.csv"
    prompt = "{instruction}\n\n{input}"
    use(page, server, file, prompt=prompt, prompt_stub="{output}", optional_columns=["input"])
    expect(completion).to_have_value("{output}", timeout=WAIT)

    use(page, server, BROUGHT / "s03_sharegpt_system_column.json", messages="conversations")
    expect_words(page, "You answer like a calm shop clerk.")

    turns = [[{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [CALL]}] for text in ASKED]
    file = lines(tmp_path / "tools.jsonl", [{"messages": each, "tools": [TOOL]} for each in turns])
    use(page, server, file, messages="messages")
    expect_words(page, "Available tools")

    rows = [{"prompt": text, "chosen": f"In aisle {at}.", "rejected": "No."} for at, text in enumerate(ASKED)]
    file = lines(tmp_path / "preference.jsonl", rows)
    use(page, server, file, messages=None, prompt="{prompt}", prompt_stub="{chosen}")
    expect_words(page, "Those in 'rejected' are not used.")

    use(page, server, BROUGHT / "s12c_pandas_split_20.json", prompt="{question}", prompt_stub="{answer}")
    expect(completion).to_have_value("{answer}", timeout=WAIT)

    single = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(ASKED)]
    use(page, server, lines(tmp_path / "single.jsonl", single), join_messages=False)
    page.get_by_role("button", name=re.compile("Join the 12 messages in the order of the file")).click(timeout=WAIT)
    expect_words(page, "12 messages were joined into 1 conversation")
    expect_settings(page, server, join_messages=True, messages="messages")

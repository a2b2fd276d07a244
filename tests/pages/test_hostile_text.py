"""Names and cells that look like markup, links, formulas, emoji or code: every page shows them as text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.evaluation.planted import plant
from tests.pages.conftest import Stage
from toolkit.data.storage.uploads import store_upload
from toolkit.runs.events import EventWriter
from toolkit.system.printable import escape_control_characters
from toolkit.ui.elements import charts
from toolkit.ui.elements.escape import escape_text

NASTY = (
    "<script>alert(1)</script> ![x](http://evil.example/x.png) $\\int$ :smile: :material/bug_report: "
    "[l](http://evil.example) **b** :red[r] `c` &lt;b&gt; \u202eturned\u2066 https://evil.example/bare "
    "www.evil.example bob@evil.example mailto:bob@evil.example :streamlit: a -> b "
)
LONG = NASTY + "n" * (400 - len(NASTY))
PAGES = ("data", "configure", "runs", "playground", "evaluate", "studies")
_RAW = re.compile(
    r"(?<!\\)(<script|!\[x\]|\$\\int|:smile:|:material/bug_report:|\[l\]\(|\*\*b\*\*|:red\[r\]|`c`|&lt;b)|[\u202e\u2066]"
    r"|https?\\?:\\?/\\?/evil|www\\?\.evil|bob\\?@evil|:streamlit\\?:(?!gray\[\])|(?<!\S)\\?-\\?>(?!\S)"
)
"""Markup without a backslash, and what needs more than backslashes: they are gone before Streamlit looks for links."""
CHAT = json.dumps([{"role": "user", "content": NASTY}, {"role": "assistant", "content": LONG}])
AS_TEXT = ("code", "text", "dataframe", "arrow_data_frame", "plotly_chart", "bidi_component", "component_instance")
"""Kinds of elements that show their content as text, or draw it themselves; charts and components have other tests."""
VALUES = ("id", "key", "default", "value", "raw_value", "form_id", "data", "url", "user_key", "query_param_key")
"""Fields that hold a widget's content, or that are not shown."""
OPTIONS = ("selectbox", "multiselect")
"""Widgets whose options are plain text; the options of others are markdown."""


def upload_bytes() -> bytes:
    out = io.StringIO()
    rows = [[LONG, "answer"], *[[f"{NASTY} {i}", "=cmd|x" if i else ""] for i in range(12)], [f"{NASTY} 3", "=cmd|x"]]
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


@pytest.fixture
def hostile(stage: Stage) -> Stage:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    stage.checked(app.file_uploader[0].upload(f"{LONG.replace('/', '')}.csv", upload_bytes(), "text/csv").run())
    first = stage.finished(NASTY, study=NASTY, settings={"lora.r": 4})
    stage.finished(LONG, study=NASTY, settings={"lora.r": 8})
    stage.run(name=f"queued {NASTY}")
    app = stage.page("playground", first)
    return stage


def test_conversations_show_their_columns_and_turns_as_text(stage: Stage) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([["n", f"{NASTY} 1", f"{NASTY} 2"], *[[str(i), CHAT, CHAT] for i in range(12)]])
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    app = stage.checked(app.file_uploader[0].upload("chats.csv", out.getvalue().encode(), "text/csv").run()).run()
    found = list(drawn(app))
    assert any("Conversations in" in text for _, text in found), [text for kind, text in found if "error" in kind]
    for kind, text in found:
        assert not _RAW.search(text), (kind, text)


def drawn(app: AppTest) -> Iterator[tuple[str, str]]:
    """Yield (kind of element, text that the browser reads as markdown) for the whole page."""
    for node in app._tree:  # type: ignore[attr-defined]
        kind = str(node.type)
        if kind in AS_TEXT or getattr(node, "proto", None) is None:
            continue
        for name, text in _strings(node.proto):
            if name not in VALUES and not (name == "options" and kind in OPTIONS):
                yield f"{kind}.{name}", text


def _strings(proto: Any) -> Iterator[tuple[str, str]]:
    for descriptor, value in proto.ListFields():
        several = value if hasattr(value, "append") or hasattr(value, "add") else [value]
        for one in several:
            if isinstance(one, str):
                yield descriptor.name, one
            elif hasattr(one, "ListFields") and descriptor.name not in VALUES:
                yield from _strings(one)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_text_as_text(hostile: Stage, page: str) -> None:
    app = hostile.page(page)
    found = list(drawn(app))
    assert len(found) > 10
    for kind, text in found:
        assert not _RAW.search(text), (kind, text)


def test_an_evaluation_shows_questions_and_answers_as_text(stage: Stage) -> None:
    source = stage.folder / "given.csv"
    source.write_text("q,a\n" + "".join(f"question {i},answer {i}\n" for i in range(20)))
    data = {"prompt": "{q}", "prompt_stub": "{a}", "path": str(source), "train_size": 10, "test_size": 10}
    run = stage.finished(NASTY, config={"data": data})
    evaluation, _ = plant(run, {f"{NASTY} {i}": (LONG, f"{NASTY} {i}") for i in range(6)})
    with EventWriter(evaluation.events_path) as events:
        events.append("started")
        events.append("finished")
    app = stage.page("evaluate", run)
    found = list(drawn(app))
    assert any("Fixed" in text for _, text in found)
    for kind, text in found:
        assert not _RAW.search(text), (kind, text)


def test_the_markup_check_finds_raw_text_in_every_kind_of_element(stage: Stage) -> None:
    """The check above must find these texts, which are drawn without escaping."""

    def page(text: str) -> None:
        import streamlit as st

        st.markdown(text)
        st.caption(text)
        st.button(text, help=text)
        st.expander(text)
        st.tabs([text])
        st.popover(text)
        st.radio("x", [text])
        st.metric(text, 1)
        st.toast(text)
        st.download_button(text, b"")
        st.error(text)

    caught = {kind for kind, text in drawn(AppTest.from_function(page, args=(NASTY,)).run()) if _RAW.search(text)}
    expected = {"markdown.body", "button.label", "button.help", "expander.label", "tab.label", "radio.options",
                "metric.label", "download_button.label"}  # fmt: skip
    assert expected <= caught, caught


def test_stored_file_names_have_only_letters_digits_and_hyphens(stage: Stage) -> None:
    path = store_upload(b"a,b\n1,2\n", f"{LONG}.csv", stage.folder)
    assert re.fullmatch(r"[0-9a-f]{12}-[a-z0-9-]{1,40}\.csv", path.name)


def test_a_chart_shows_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "series_colors", lambda: ["#000000"] * 8)
    figure = charts.overlay_chart({LONG: [(1, 1.0), (2, 0.5)]}, "loss", "r")
    (line,) = figure.data
    for text in (line.name, line.hovertemplate):
        assert not re.search("<(?!extra|/extra)|\u202e|&(?!amp;)", text)
    assert len(line.name) < 2 * charts.MAX_LABEL_CHARACTERS


def test_control_and_bidirectional_characters_are_shown_by_their_code() -> None:
    assert escape_control_characters("a\u202eb\tc\r\n\x1b") == "a⟨U+202E⟩b\tc\r\n⟨U+001B⟩"
    assert escape_control_characters("👩‍👩‍👧 مرحبا") == "👩‍👩‍👧 مرحبا"


def test_escape_text_keeps_letters_of_every_script() -> None:
    for text in ("Zoë", "数据", "👩‍👩‍👧", "مرحبا", "नमस्ते"):
        assert escape_text(text) == text
    assert escape_text("a\u202eb\x1b[31mc\x00") == "ab\\[31mc"

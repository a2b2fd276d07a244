"""Files that can be read in more than one way: each offer works, says what it did, and none is taken unasked."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from toolkit.config import DataConfig
from toolkit.data.conversations import parse_conversation
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.read_options import (
    DEFAULT_READ_OPTIONS,
    READ_OPTION_NAMES,
    Offer,
    ReadOptions,
    UnreadableError,
    read_options,
)
from toolkit.data.table import Table
from toolkit.errors import DataError

Opener = Callable[..., Table]


def refused(
    open_bytes: Opener, content: bytes | str, kind: str, options: ReadOptions = DEFAULT_READ_OPTIONS
) -> tuple[Offer, ...]:
    with pytest.raises(UnreadableError) as caught:
        open_bytes(content, kind, options)
    assert caught.value.hint
    assert caught.value.offers
    return caught.value.offers


def cells(table: Table) -> list[tuple[str | None, ...]]:
    return [tuple(row.values()) for row in table.page(0, 100)]


@pytest.mark.parametrize(
    ("codec", "text"),
    [("cp1252", "café"), ("cp1251", "Привет мир"), ("cp932", "こんにちは世界"), ("gb18030", "你好，世界"),
     ("cp949", "안녕하세요"), ("cp1253", "Καλημέρα"), ("cp1250", "žluťoučký kůň"),
     ("mac-roman", "caf\u00e9 d\u2019\u00e9t\u00e9")],
)  # fmt: skip
def test_every_usual_encoding_is_offered_with_what_it_says(open_bytes: Opener, codec: str, text: str) -> None:
    offers = refused(open_bytes, f"a,b\n{text},2\n".encode(codec), "csv")
    right = [offer for offer in offers if offer.preview == (f"{text},2",)]
    assert right, [offer.preview for offer in offers]
    table = open_bytes(f"a,b\n{text},2\n".encode(codec), "csv", right[0].options)
    assert cells(table)[0][0] == text.split(",")[0]
    assert "as chosen" in " ".join(table.notices)
    assert len({offer.preview for offer in offers}) == len(offers), "each offer reads differently"


def test_the_likely_encoding_comes_first(open_bytes: Opener) -> None:
    assert refused(open_bytes, "a\nun café très sucré\nx\n".encode("cp1252"), "csv")[0].options.encoding == "cp1252"
    japanese = "a\n" + "東京の天気は晴れです\n" * 5
    first = refused(open_bytes, japanese.encode("cp932"), "csv")[0]
    assert first.options.encoding == "cp932"
    assert first.preview[0] == "東京の天気は晴れです"


def test_mixed_encodings_are_repaired_on_request(open_bytes: Opener) -> None:
    content = "a,b\né,1\n".encode() + b"caf\xe9,2\nx\xff,3\n"
    (repair,) = [offer for offer in refused(open_bytes, content, "csv") if offer.options.repair_text]
    table = open_bytes(content, "csv", repair.options)
    assert cells(table) == [("é", "1"), ("caf\ufffd", "2"), ("x\ufffd", "3")]
    assert "In 2 places" in " ".join(table.notices)


@pytest.mark.parametrize("name", ["base64", "rot13", "no-such", "zlib"])
def test_an_unknown_encoding_is_refused(open_bytes: Opener, name: str) -> None:
    with pytest.raises(DataError, match="is not a known encoding"):
        open_bytes("a\n1\n", "csv", ReadOptions(encoding=name))


def test_nul_and_unpaired_surrogates_are_repaired_on_request(open_bytes: Opener) -> None:
    content = json.dumps([{"a": "x\0y"}, {"a": "z\ud83d"}, {"a": "whole 😀"}])
    (offer,) = refused(open_bytes, content, "json")
    table = open_bytes(content, "json", offer.options)
    assert cells(table) == [("xy",), ("z\ufffd",), ("whole 😀",)]
    assert "In 2 cells" in " ".join(table.notices)


def test_rows_that_do_not_fit_are_skipped_or_filled(open_bytes: Opener) -> None:
    short = "a,b\n1,2\n3\n4,5\n"
    skip, fill = refused(open_bytes, short, "csv")[:2]
    assert cells(open_bytes(short, "csv", skip.options)) == [("1", "2"), ("4", "5")]
    table = open_bytes(short, "csv", fill.options)
    assert cells(table) == [("1", "2"), ("3", None), ("4", "5")]
    assert table.missing == {"a": 0, "b": 1}
    long = "a,b\n1,2\n3,4,5\n"
    (skip,) = refused(open_bytes, long, "csv")
    table = open_bytes(long, "csv", skip.options)
    assert cells(table) == [("1", "2")]
    assert "line 3" in " ".join(table.notices)


def test_the_delimiter_is_detected_and_can_be_chosen(open_bytes: Opener) -> None:
    content = "a;b,c;d\n1;2,3;4\n"
    table = open_bytes(content, "csv")
    other = {offer.options.delimiter: offer for offer in table.offers}
    assert set(other) | {";"} == {",", ";"} or set(other) | {","} == {",", ";"}
    for delimiter, offer in other.items():
        again = open_bytes(content, "csv", offer.options)
        assert list(again.columns) == content.splitlines()[0].split(delimiter)
        assert offer.preview[0] == "  \u2502  ".join(again.columns).replace("  ", " ")


def test_an_incomplete_last_row_is_skipped_on_request(open_bytes: Opener) -> None:
    for content in ('{"a": 1}\n{"a": 2}\n{"a": ', '[{"a": 1}, {"a": 2}, {"a": ', '[{"a": 1}, {"a": 2}'):
        (offer,) = refused(open_bytes, content, "json")
        table = open_bytes(content, "json", offer.options)
        assert cells(table) == [("1",), ("2",)]
        assert "skipped, as chosen" in " ".join(table.notices)


def test_one_of_several_lists_is_chosen(open_bytes: Opener) -> None:
    content = '{"x": [{"a": 1}], "y": [{"a": 2}, {"a": 3}]}'
    first, second = refused(open_bytes, content, "json")
    assert cells(open_bytes(content, "json", first.options)) == [("1",)]
    assert cells(open_bytes(content, "json", second.options)) == [("2",), ("3",)]
    with pytest.raises(DataError, match="no list 'z'"):
        open_bytes(content, "json", ReadOptions(rows_from="z"))


def test_nested_objects_become_columns_on_request(open_bytes: Opener) -> None:
    content = '[{"id": 1, "q": {"text": "hi", "by": {"name": "x"}}, "tags": ["a"]}, {"id": 2, "q": {"text": "ho"}}]'
    (offer,) = open_bytes(content, "json").offers
    assert offer.preview == ("q.text: hi", "q.by.name: x")
    table = open_bytes(content, "json", offer.options)
    assert table.columns == ("id", "q.text", "q.by.name", "tags")
    assert cells(table) == [("1", "hi", "x", '["a"]'), ("2", "ho", None, None)]
    with pytest.raises(DataError, match=r"Row 1.*both be named 'a\.b'"):
        open_bytes('[{"a.b": 1, "a": {"b": 2}}]', "json", ReadOptions(flatten=True))


def test_nan_is_read_as_text_on_request(open_bytes: Opener) -> None:
    (offer,) = refused(open_bytes, '[{"a": NaN}, {"a": 1}]', "json")
    assert cells(open_bytes('[{"a": NaN}, {"a": 1}]', "json", offer.options)) == [("NaN",), ("1",)]


def test_options_can_be_combined(open_bytes: Opener) -> None:
    content = "a;b\ncafé;1\nx\n".encode("cp1252")
    first = refused(open_bytes, content, "csv")[0]
    second = refused(open_bytes, content, "csv", first.options)[0]
    assert second.options == ReadOptions(encoding="cp1252", bad_rows="skip")
    assert cells(open_bytes(content, "csv", second.options)) == [("café", "1")]


def test_every_option_is_a_setting() -> None:
    data = DataConfig(encoding="cp1252", delimiter="\t", rows_from="x", flatten=True, bad_rows="fill", repair_text=True)
    assert read_options(data) == ReadOptions("cp1252", "\t", "x", True, "fill", True)
    assert read_options(DataConfig()) == DEFAULT_READ_OPTIONS
    assert set(READ_OPTION_NAMES) <= set(DataConfig.model_fields)


# conversations


def line(*messages: dict[str, object], **more: object) -> str:
    return json.dumps({"messages": list(messages), **more})


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def test_openai_files_are_recognized(open_bytes: Opener) -> None:
    table = open_bytes("\n".join([line({"role": "system", "content": "be kind"}, USER, ANSWER)] * 3), "json")
    assert table.chats == {"messages": ""}
    example = renderer_of(DataConfig(messages="messages"), table.columns).example(table.row(0))
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant"]
    assert [turn.learned for turn in example.turns] == [False, False, True]
    assert (example.prompt, example.completion) == ("system: be kind\n\nuser: hi", "ho")
    assert "3 conversations" in " ".join(table.notices)


def test_sharegpt_and_parts_and_weights() -> None:
    turns = parse_conversation(json.dumps([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]))
    assert [(turn.role, turn.content) for turn in turns] == [("user", "a"), ("assistant", "b")]
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    turns = parse_conversation(
        json.dumps([{"role": "developer", "content": parts}, {**ANSWER, "weight": 0}, ANSWER, USER])
    )
    assert [(turn.role, turn.learned) for turn in turns] == [
        ("system", False),
        ("assistant", False),
        ("assistant", True),
    ]
    assert turns[0].content == "one two"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER], "no assistant message to train on"),
        ([USER, {**ANSWER, "weight": 0}], "no assistant message to train on"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}], "without a name"),
        ([USER, {"from": "function_call", "value": "find 22"}, ANSWER], "a tool call that is not valid JSON"),
        ([USER, {"role": "assistant", "content": None}], "message 2 has no text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER], "type 'image_url'"),
        ([{"role": "wizard", "content": "x"}, ANSWER], "the unknown role 'wizard'"),
        ([USER, {**ANSWER, "weight": 0.5}], "the weight 0.5"),
        ([USER, "x"], "message 2 is not an object"),
    ],
)
def test_untrainable_conversations_are_reported_and_skipped_on_request(
    open_bytes: Opener, messages: list[object], words: str
) -> None:
    bad = json.dumps({"messages": messages})
    content = f"{line(USER, ANSWER)}\n{bad}\n"
    table = open_bytes(content, "json")
    data = DataConfig(messages="messages")
    if "not an object" in words and table.chats == {}:
        return
    (problem,) = chat_problems(data, table)
    assert "Row 2" in problem.message
    assert words in problem.message
    (offer,) = table.offers
    again = open_bytes(content, "json", offer.options)
    assert chat_problems(data, again) == []
    assert again.missing == {"messages": 1}
    assert "skipped, as chosen" in " ".join(again.notices)


def test_a_column_with_tools_that_have_no_name_is_refused(open_bytes: Opener) -> None:
    table = open_bytes(line(USER, ANSWER, tools=[{"type": "function"}]) + "\n" + line(USER, ANSWER), "json")
    (problem,) = chat_problems(DataConfig(messages="messages"), table)
    assert "tool 1 of its list of tools has no name" in problem.message


def test_a_column_of_other_lists_is_not_a_conversation(open_bytes: Opener) -> None:
    table = open_bytes('a,b\n"[""role""]",x\n[1],y\n', "csv")
    assert table.chats == {}
    (problem,) = chat_problems(DataConfig(messages="a"), table)
    assert "contains no conversations" in problem.message
    with pytest.raises(DataError, match="No column is named 'c'"):
        renderer_of(DataConfig(messages="c"), table.columns)

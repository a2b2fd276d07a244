"""The template grammar: literal text, {column}, {{ and }}, and nothing else."""

from __future__ import annotations

import pytest

from toolkit.config import Config
from toolkit.data.examples.templates import (
    MAX_TEMPLATE,
    Example,
    TemplatePiece,
    compile_template,
    make_renderer,
    template_problems,
)
from toolkit.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{a}", "A"),
        ("{a}{b}-{a}", "AB-A"),
        ("{{a}}", "{a}"),
        ("{{{a}}}", "{A}"),
        ("{{{{", "{{"),
        ("line\n{b}\n", "line\nB\n"),
        ("😀{a}", "😀A"),
    ],
)
def test_rendering(text: str, expected: str) -> None:
    assert compile_template(text, ["a", "b"]).render({"a": "A", "b": "B"}) == expected


@pytest.mark.parametrize(
    "name", ["__class__", "items", "0", "a.b", "a b", "a:>9", "a!r", "a[0]", "emoji 😀", "שלום", " a"]
)
def test_any_name_without_braces_is_literal(name: str) -> None:
    template = compile_template("<{" + name + "}>", ["a", name])
    assert template.render({"a": "wrong", name: "right"}) == "<right>"
    assert template.columns == (name,)


@pytest.mark.parametrize("cell", ["{b}", "{{", "}", "{0.__class__}", "{a}"])
def test_a_cell_is_never_read_as_a_template(cell: str) -> None:
    assert compile_template("{a}!", ["a", "b"]).render({"a": cell, "b": "no"}) == cell + "!"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "unmatched { at character 1"),
        ("ab}", "unmatched } at character 3"),
        ("{a}}", "unmatched } at character 4"),
        ("x\n y {", "line 2, character 4"),
        ("{}", "no column name in {} at character 1"),
        ("{ }", "no column name"),
        ("{0}", "No column is named '0'"),
        ("{a!r}", "Only {column}"),
        ("{a:>2000000000}", "Only {column}"),
        ("{a.__class__}", "Only {column}"),
        ("{a.__init__.__globals__[K]}", "Only {column}"),
        ('{"json": {a}}', "unmatched { at character 1"),
        ("{x} and {y}", "'y'"),
    ],
)
def test_mistakes_name_their_place(text: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        compile_template(text, ["a", "b"])
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "near"),
    [("{mesage}", "message"), ("{Message}", "message"), ("{ answer }", "answer"), ("{answer.x}", "answer")],
)
def test_the_nearest_name_is_suggested(text: str, near: str) -> None:
    with pytest.raises(DataError, match="Did you mean") as caught:
        compile_template(text, ["message", "answer"])
    assert f"{{{near}}}" in caught.value.hint


def test_a_name_like_no_other_lists_the_columns() -> None:
    with pytest.raises(DataError, match="The columns are: message, answer"):
        compile_template("{zzz}", ["message", "answer"])


def test_a_long_template_is_refused() -> None:
    assert compile_template("x" * MAX_TEMPLATE, []).render({}) == "x" * MAX_TEMPLATE
    with pytest.raises(DataError, match="20,001 characters"):
        compile_template("x" * (MAX_TEMPLATE + 1), [])


def test_pieces_tell_literal_from_column() -> None:
    pieces = compile_template("a{{b {c}", ["c"]).pieces
    assert pieces == (TemplatePiece("a{b "), TemplatePiece("c", is_column=True))


def test_renderer() -> None:
    renderer = make_renderer("Q: {q}", " {a} ({q})", ["a", "q", "other"])
    assert renderer.columns_needed == ("q", "a")
    assert renderer.example({"q": "1", "a": "2"}) == Example("Q: 1", " 2 (1)")
    assert renderer.usable({"q": "1", "a": "2", "other": None})
    assert not renderer.usable({"q": "1", "a": None})
    assert renderer.prompt({"q": "7"}) == "Q: 7"
    with pytest.raises(DataError, match="no value for column 'a'"):
        renderer.example({"q": "1", "a": None})


def _problems(prompt: str, stub: str) -> list[tuple[str, str]]:
    config = Config.model_validate({"data": {"prompt": prompt, "prompt_stub": stub}})
    return [(problem.path, problem.severity) for problem in template_problems(config, ["message", "answer"])]


@pytest.mark.parametrize(
    ("prompt", "stub", "expected"),
    [
        ("{message}", "{answer}", []),
        ("{mesage}", "{answer}", [("data.prompt", "error")]),
        ("{message}", "{nope} {", [("data.prompt_stub", "error")] * 2),
        ("{message}", "yes", [("data.prompt_stub", "error")]),
        ("{message}", " ", [("data.prompt_stub", "error")]),
        ("hello", "{answer}", [("data.prompt", "warning")]),
        ("", "{answer}", [("data.prompt", "warning")]),
    ],
)
def test_problems_stand_under_their_field(prompt: str, stub: str, expected: list[tuple[str, str]]) -> None:
    assert _problems(prompt, stub) == expected

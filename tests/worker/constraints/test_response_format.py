"""Answers that are JSON whatever the model would say, and schemas that are refused in words."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import InferenceConfig
from toolkit.errors import EngineError
from toolkit.worker.constraints import response_format
from toolkit.worker.constraints.response_format import build_grammar, write_grammar
from toolkit.worker.serving.request_models import ChatRequest, RequestError, parse_request

needs_grammar = pytest.mark.skipif(
    importlib.util.find_spec(response_format.PACKAGE) is None, reason="llguidance is not installed"
)
ORDER = {
    "type": "object",
    "properties": {
        "item": {"enum": ["lamp", "chair"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["item", "count", "notes"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f"}}


def request(form: Any, **more: Any) -> ChatRequest:
    body = {"model": "base", "messages": [{"role": "user", "content": "a"}], "response_format": form, **more}
    return parse_request(ChatRequest, body)


def schema_request(schema: Any) -> ChatRequest:
    return request({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}})


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def test_text_has_no_grammar() -> None:
    assert request(None).find_grammar() is None and request({"type": "text"}).find_grammar() is None


@pytest.mark.parametrize(
    "form",
    [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_object", "json_schema": {"name": "a"}}, {}, "json", []],
)
def test_a_form_that_is_none_is_refused(form: Any) -> None:
    with pytest.raises(RequestError) as caught:
        request(form)
    assert caught.value.param.startswith("response_format")


def test_without_the_package_it_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_format, "PACKAGE", "no_such_package")
    with pytest.raises(RequestError, match="which is not installed") as caught:
        _ = request({"type": "json_object"}).find_grammar()
    assert "pip install" in caught.value.hint and caught.value.status == 400


@needs_grammar
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "no such type"}, "can't be followed"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.com/schema.json"}}}, "can't be followed"),
        ({"type": "string", "pattern": "(?=a)b"}, "can't be followed"),
        ({"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrst"]}, "too long"),
        ({"enum": ["x" * 40_000]}, "32,000 are allowed"),
        (nested(80), "50 levels deep"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "can't be followed"),
    ],
    ids=str,
)
def test_a_schema_that_can_not_be_followed_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        _ = schema_request(schema).find_grammar()
    assert caught.value.hint and caught.value.param == "response_format"


@needs_grammar
def test_tools_and_a_form_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="leaves no room for tool calls"):
        _ = request({"type": "json_object"}, tools=[TOOL]).find_grammar()
    assert request({"type": "json_object"}, tools=[TOOL], tool_choice="none").find_grammar()


@pytest.mark.worker
@needs_grammar
def test_a_random_model_answers_by_the_schema(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.engine_runs import make_config
    from toolkit.worker.models.load import load_base_model, load_tokenizer
    from toolkit.worker.serving.stream_answer import GenerationRequest, stream_answer

    config = make_config(tiny_model.parent, tiny_model)
    model, tokenizer = load_base_model(config).eval(), load_tokenizer(config)
    ids = tokenizer("please send", add_special_tokens=False)["input_ids"]

    def ask(grammar: str | None, seed: int, **settings: Any) -> Any:
        chosen = InferenceConfig(max_new_tokens=200, **settings)
        asked = GenerationRequest("m", "please send", ids, chosen, time.perf_counter(), seed, grammar=grammar)
        return stream_answer(model, tokenizer, asked, lambda piece: None, threading.Event())

    with monkeypatch.context() as patch:
        patch.setattr(response_format, "WHITESPACE", " ?")  # so that the longest answer is far below the limit
        grammar = write_grammar(json.dumps(ORDER))
    for seed in range(6):
        answer = ask(grammar, seed, do_sample=seed > 0, top_k=5 if seed > 3 else 0)
        assert answer.finish_reason == "stop", answer.text
        found = json.loads(answer.text)
        assert set(found) == set(ORDER["required"]) and found["item"] in ("lamp", "chair")
        assert 1 <= found["count"] <= 99 and all(len(note) <= 4 for note in found["notes"])
    free = ask(build_grammar(json.dumps(response_format.ANY_OBJECT)), 1, do_sample=True)
    assert free.text.startswith("{") and (free.finish_reason == "length" or json.loads(free.text) is not None)
    plain = ask(None, 1, do_sample=True)
    assert not plain.text.startswith("{"), "a grammar does not outlive its answer"


@needs_grammar
def test_the_limits_of_a_schema_raise_the_engine_s_error() -> None:
    with pytest.raises(EngineError, match="32,000"):
        build_grammar(json.dumps({"enum": ["a" * 33_000]}))

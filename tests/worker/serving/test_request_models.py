"""Valid requests, and the errors of invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.config import InferenceConfig
from toolkit.worker.serving.request_models import (
    NEUTRAL_VALUES,
    ChatRequest,
    CompletionRequest,
    LoadRequest,
    RequestError,
    parse_request,
)

HELLO: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}


def test_missing_settings_come_from_the_run() -> None:
    own = InferenceConfig(max_new_tokens=7, do_sample=True, temperature=0.5, top_k=3)
    assert parse_request(ChatRequest, HELLO).settings(own) == own


def test_every_setting_can_be_sent_and_none_means_the_library_default() -> None:
    sent = InferenceConfig(
        max_new_tokens=5,
        use_cache=False,
        do_sample=True,
        top_p=0.5,
        temperature=0.7,
        epsilon_cutoff=0.1,
        eta_cutoff=0.2,
        top_k=None,
    )
    assert all(getattr(sent, name) != field.default for name, field in InferenceConfig.model_fields.items())
    assert parse_request(ChatRequest, {**HELLO, **sent.model_dump()}).settings(InferenceConfig()) == sent


def test_openai_aliases_and_sampling_rules() -> None:
    def settings(**sent: Any) -> InferenceConfig:
        return parse_request(ChatRequest, {**HELLO, **sent}).settings(InferenceConfig())

    assert settings(max_tokens=9).max_new_tokens == settings(max_completion_tokens=9).max_new_tokens == 9
    assert settings(temperature=0.3).do_sample is True
    assert settings(temperature=0).do_sample is False
    assert settings(temperature=0.3, do_sample=False).do_sample is False
    parts = {**HELLO, "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]}
    assert parse_request(ChatRequest, parts).messages[0].text == "aa"
    neutral = {name: values[0] for name, values in NEUTRAL_VALUES.items()}
    assert parse_request(ChatRequest, {**HELLO, **neutral, "user": "me"}).model == "base"
    assert parse_request(CompletionRequest, {"model": "base", "prompt": ["one"]}).text == "one"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 0, "do_sample": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"epsilon_cutoff": 1}, "epsilon_cutoff"),
        ({"eta_cutoff": -0.1}, "eta_cutoff"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"n": 2}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"nonsense": 1}, "nonsense"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"model": ""}, "model"),
        ({"temperature": float("nan")}, "temperature"),
        ({"stop": ["x"] * 17}, "stop"),
    ],
)
def test_an_error_names_the_parameter(change: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(ChatRequest, {**HELLO, **change}).settings(InferenceConfig())
    assert word in caught.value.message
    assert caught.value.hint and caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"run": "../x"}', b'{"run": "A"}'])
def test_invalid_bodies_are_rejected(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request(LoadRequest, body)

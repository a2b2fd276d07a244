"""The engine process over HTTP: OpenAI's client, the guard, the queue, cancellation and shutdown."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from toolkit.config import InferenceConfig
from toolkit.errors import EngineError
from toolkit.services import engine_client
from toolkit.services.engine_http import Delta, Done
from toolkit.services.engine_process import EngineInfo, find_engine
from toolkit.services.engine_requests import (
    EngineQuestion,
    request_score,
    stream_chat,
    stream_comparison,
    stream_completion,
)

pytestmark = pytest.mark.worker

HELLO = [{"role": "user", "content": "please send 12 blue lamps"}]
CONTEXT = 50_000


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineInfo, str, str]]:
    """(engine, run, another run of the same base model); the model never stops by itself and has a long context."""
    import safetensors.torch

    from tests.fakes.engine_runs import finished_run

    place = tmp_path_factory.mktemp("served")
    model = place / "endless"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    weights = safetensors.torch.load_file(model / "model.safetensors")
    weights["lm_head.weight"][config["eos_token_id"]] = 0
    safetensors.torch.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        first, second = (finished_run(place / "save", model, seed) for seed in (1, 2))
        info = engine_client.start_engine(place / "save", first.id)
        engine_client.wait_for_engine(info, 120)
        engine_client.attach_adapter(info, second.id)
        yield info, first.id, second.id
        engine_client.stop_engine(info)


def headers(info: EngineInfo, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {info.token}", **more}


def whole(info: EngineInfo, model: str, **settings: Any) -> tuple[str, Done]:
    settings.setdefault("max_new_tokens", 16)
    *pieces, done = stream_chat(info, model, HELLO, InferenceConfig(**settings), seed=1)
    assert isinstance(done, Done) and all(isinstance(piece, Delta) for piece in pieces)
    text = "".join(piece.text for piece in pieces if isinstance(piece, Delta))
    assert text == done.text
    return text, done


def test_base_and_adapters_answer_differently_and_repeatably(served: tuple[EngineInfo, str, str]) -> None:
    info, first, second = served
    assert engine_client.list_engine_models(info) == ["base", first, second]
    assert engine_client.read_engine_status(info).memory_bytes > 50_000_000
    texts = {name: whole(info, name)[0] for name in ("base", first, second)}
    assert len(set(texts.values())) == 3
    for name in (second, "base", first, "base", second, first):
        assert whole(info, name)[0] == texts[name]


def test_the_last_event_has_all_statistics(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    done = whole(info, first)[1]
    assert done.prompt == "<|im_start|>user\nplease send 12 blue lamps<|im_end|>\n<|im_start|>assistant\n"
    rendered = engine_client.render_engine_prompt(info, first, HELLO)
    assert (rendered.prompt, rendered.prompt_tokens) == (done.prompt, done.prompt_tokens)
    assert (done.completion_tokens, done.finish_reason, done.notice, done.seed) == (16, "length", "", 1)
    assert done.ttft_s > 0 and done.tokens_per_second > 0
    *_, raw = stream_completion(info, first, done.prompt, InferenceConfig(max_new_tokens=16))
    assert isinstance(raw, Done) and raw.text == done.text
    *_, base = stream_chat(info, "base", HELLO, InferenceConfig(max_new_tokens=4), prompt_of=first)
    assert isinstance(base, Done) and base.prompt == done.prompt


def test_generation_settings_have_an_effect(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    greedy = whole(info, first, do_sample=False)[0]
    sampled = whole(info, first, do_sample=True, temperature=5.0, top_k=0)[0]
    assert sampled != greedy and sampled == whole(info, first, do_sample=True, temperature=5.0, top_k=0)[0]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}, {"epsilon_cutoff": 0.99}):
        assert whole(info, first, **{"do_sample": True, "top_k": 0, **narrow})[0] == greedy, narrow
    assert whole(info, first, max_new_tokens=3)[1].completion_tokens == 3


def test_the_openai_client_gets_json_by_a_schema(served: tuple[EngineInfo, str, str]) -> None:
    import openai

    info, first, _ = served
    count = {"type": "integer", "minimum": 1, "maximum": 9}
    schema = {"type": "object", "properties": {"item": {"enum": ["lamp", "chair"]}, "count": count},
              "required": ["item", "count"], "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema, "strict": True}}
    chat: dict[str, Any] = {"model": first, "messages": HELLO, "max_tokens": 400, "temperature": 1.0, "seed": 1}
    with openai.OpenAI(base_url=f"{info.url}/v1", api_key=info.token, max_retries=0) as api:
        if importlib.util.find_spec("llguidance") is None:
            with pytest.raises(openai.BadRequestError, match="pip install llguidance"):
                api.chat.completions.create(**chat, response_format=form)
            return
        (said,) = api.chat.completions.create(**chat, response_format=form).choices
        found = json.loads(said.message.content or "")
        assert said.finish_reason == "stop" and set(found) == {"item", "count"}
        assert found["item"] in ("lamp", "chair") and 1 <= found["count"] <= 9
        parts = api.chat.completions.create(**chat, response_format=form, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == said.message.content
        (free,) = api.chat.completions.create(**chat, response_format={"type": "json_object"}).choices
        assert (free.message.content or "").startswith("{")
        (plain,) = api.chat.completions.create(**chat, response_format={"type": "text"}).choices
        assert plain.message.content == api.chat.completions.create(**chat).choices[0].message.content
        form["json_schema"]["schema"] = {"type": "no such type"}
        with pytest.raises(openai.BadRequestError, match="schema can't be followed"):
            api.chat.completions.create(**chat, response_format=form)


def test_the_openai_client_works(served: tuple[EngineInfo, str, str]) -> None:
    import openai

    info, first, second = served
    expected = whole(info, first)[0]
    with openai.OpenAI(base_url=f"{info.url}/v1", api_key=info.token, max_retries=0) as api:
        named = [model.id for model in api.models.list()]
        assert named == ["base", first, second]
        for name in (*named, *reversed(named)):  # adapters as models, switched between requests
            said = api.chat.completions.create(model=name, messages=HELLO, max_tokens=16)
            assert (said.model, said.choices[0].message.content) == (name, whole(info, name)[0])
        lengthy = api.completions.create(model=first, prompt="lamp " * 1500, max_tokens=2)
        assert lengthy.usage.prompt_tokens >= 1500 and lengthy.usage.completion_tokens == 2
        chat: dict[str, Any] = {"model": first, "messages": HELLO, "max_tokens": 16}
        answer = api.chat.completions.create(**chat)
        assert answer.choices[0].message.content == expected
        assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"
        events = list(api.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
        assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == expected
        assert events[-1].choices == [] and events[-1].usage.completion_tokens == 16
        assert events[-2].timings["ttft_s"] > 0 and events[-2].prompt.startswith("<|im_start|>")
        prompt = events[-2].prompt
        text = api.completions.create(model=first, prompt=prompt, max_tokens=16)
        assert text.choices[0].text == expected
        parts = api.completions.create(model=first, prompt=prompt, max_tokens=16, stream=True)
        assert "".join(part.choices[0].text for part in parts) == expected
        told = api.chat.completions.create(**chat, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        assert len(told) == 16 and len(told[0].top_logprobs) == 3 and "".join(t.token for t in told) == expected
        assert told[0].token == told[0].top_logprobs[0].token and told[0].logprob == told[0].top_logprobs[0].logprob
        parts = list(api.chat.completions.create(**chat, logprobs=True, stream=True))
        streamed = [t for part in parts if part.choices[0].logprobs for t in part.choices[0].logprobs.content]
        assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in told], abs=1e-5)
        raw = api.completions.create(model=first, prompt=prompt, max_tokens=4, logprobs=2).choices[0].logprobs
        assert len(raw.tokens) == len(raw.token_logprobs) == 4 and len(raw.top_logprobs[0]) == 2
        cut = api.chat.completions.create(**chat, stop=expected[3:6]).choices[0]
        assert cut.message.content == expected[:3] and cut.finish_reason == "stop"
        with pytest.raises(openai.BadRequestError, match="needs 'logprobs'"):
            api.chat.completions.create(**chat, top_logprobs=3)
        with pytest.raises(openai.BadRequestError, match="context length") as long:
            api.completions.create(model=first, prompt="lamp " * CONTEXT)
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError, match="'nope' is not loaded"):
            api.chat.completions.create(model="nope", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="does not support 'n'"):
            api.chat.completions.create(**chat, n=2)
    with (
        openai.OpenAI(base_url=f"{info.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_the_guard_rejects_foreign_hosts_and_wrong_tokens(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    with httpx.Client(base_url=info.url) as http:
        health = http.get("/health", headers=headers(info))
        assert health.json()["status"] == "ready" and info.token not in health.text
        for method, path in [
            ("GET", "/health"),
            ("GET", "/v1/models"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/v1/completions"),
            ("POST", "/v1/load"),
            ("POST", "/v1/render"),
            ("POST", "/shutdown"),
            ("POST", "/health"),
            ("GET", "/nothing"),
        ]:
            for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": info.token}):
                reply = http.request(method, path, headers=wrong)
                assert reply.status_code == 401 and reply.json()["error"]["hint"], (method, path)
                assert first not in reply.text, "a stranger learns nothing of what is loaded"
        for host in ("evil.example", "evil.example:80", f"127.0.0.1.evil.example:{info.port}", "127.0.0.1@evil", ""):
            assert http.get("/health", headers={"Host": host}).status_code in (400, 403), host
        assert http.get("/v1/models", headers=headers(info, Host=f"localhost:{info.port}")).status_code == 200
        assert http.get("/nothing", headers=headers(info)).json()["error"]["code"] == "not_found"
        big = {"model": first, "prompt": "x" * (5 * 2**20)}
        assert http.post("/v1/completions", headers=headers(info), json=big).status_code == 413
        chunks = (b"x" * 2**20 for _ in range(6))
        assert http.post("/v1/completions", headers=headers(info), content=chunks).status_code == 413
        assert http.post("/v1/load", headers=headers(info), content=b"{").json()["error"]["type"].startswith("invalid")
        assert "access-control-allow-origin" not in http.options("/v1/models", headers={"Origin": "http://x"}).headers
    assert stat.S_IMODE((info.save_dir / "engine" / "engine.json").stat().st_mode) == 0o600
    command = Path(f"/proc/{info.pid}/cmdline").read_bytes()
    assert info.token.encode() not in command and info.token not in repr(info)


def test_the_engine_listens_on_the_loopback_only(served: tuple[EngineInfo, str, str]) -> None:
    import psutil

    listening = [c for c in psutil.Process(served[0].pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]


def test_invalid_requests_are_rejected_with_a_status(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    words = "lamp " * CONTEXT
    for call, message in [
        (lambda: list(stream_completion(info, first, words, InferenceConfig())), "context length"),
        (lambda: list(stream_completion(info, first, "", InferenceConfig())), "prompt is empty"),
        (lambda: list(stream_chat(info, "nope", HELLO, InferenceConfig())), "not loaded"),
        (lambda: list(stream_chat(info, first, [], InferenceConfig())), "messages"),
        (lambda: engine_client.attach_adapter(info, "20200101-000000-none"), "no run"),
        (lambda: engine_client.attach_adapter(info, "../../etc"), "run"),
    ]:
        with pytest.raises(EngineError, match=message) as caught:
            call()
        assert caught.value.hint, message


def test_closing_the_stream_ends_the_answer(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    endless = InferenceConfig(max_new_tokens=CONTEXT // 2)
    stream = stream_chat(info, first, HELLO, endless)
    assert isinstance(next(stream), Delta)
    assert engine_client.read_engine_status(info).waiting == 1
    stream.close()
    _until(lambda: engine_client.read_engine_status(info).waiting == 0)
    body = {"model": first, "messages": HELLO, "max_tokens": CONTEXT // 2}
    with pytest.raises(httpx.ReadTimeout):  # the same for one who waits for the whole and gives up
        httpx.post(f"{info.url}/v1/chat/completions", headers=headers(info), json=body, timeout=0.5)
    _until(lambda: engine_client.read_engine_status(info).waiting == 0)
    assert whole(info, first)[1].completion_tokens == 16


def test_short_questions_do_not_wait_for_a_long_answer_to_end(served: tuple[EngineInfo, str, str]) -> None:
    info, first, second = served
    running = stream_chat(info, first, HELLO, InferenceConfig(max_new_tokens=CONTEXT // 2))
    next(running)
    alone = {model: whole(info, model, max_new_tokens=8)[0] for model in (second, "base")}
    _until(lambda: engine_client.read_engine_status(info).waiting == 1)  # the short ones have left
    assert isinstance(next(running), Delta), "the long one goes on"
    left = stream_chat(info, first, HELLO, InferenceConfig(max_new_tokens=CONTEXT // 2))
    next(left)
    left.close()
    _until(lambda: engine_client.read_engine_status(info).waiting == 1)
    assert isinstance(next(running), Delta)
    running.close()
    _until(lambda: engine_client.read_engine_status(info).waiting == 0)
    assert alone == {model: whole(info, model, max_new_tokens=8)[0] for model in (second, "base")}


def test_models_are_compared_side_by_side(served: tuple[EngineInfo, str, str]) -> None:
    info, first, second = served
    settings = InferenceConfig(max_new_tokens=CONTEXT // 4)
    questions = [EngineQuestion(name, HELLO, settings, 1, first) for name in (first, "base", second, "nope")]
    seen: dict[int, list[Any]] = {0: [], 1: [], 2: [], 3: []}
    stream = stream_comparison(info, questions, top_logprobs=2)
    for column, event in stream:
        seen[column].append(event)
        if all(seen[i] for i in range(4)):
            break  # all four have begun before any has ended
    assert isinstance(seen[3][0], EngineError) and "not loaded" in seen[3][0].message
    assert not [e for i in range(3) for e in seen[i] if isinstance(e, Done)]
    token = seen[0][-1].tokens[0]
    assert token.logprob <= 0 and len(token.top) == 2 and token.top[0][1] >= token.top[1][1]
    stream.close()
    _until(lambda: engine_client.read_engine_status(info).waiting == 0)
    short = [EngineQuestion(q.model, HELLO, InferenceConfig(max_new_tokens=8), 1, first) for q in questions[:3]]
    ends = {column: event.text for column, event in stream_comparison(info, short) if isinstance(event, Done)}
    assert ends == {i: whole(info, name, max_new_tokens=8)[0] for i, name in enumerate((first, "base", second))}


def test_an_expected_answer_is_scored_as_in_training(served: tuple[EngineInfo, str, str]) -> None:
    info, first, _ = served
    scored = request_score(info, first, "please send 12 blue lamps", "12 lamps", top_logprobs=2)
    assert scored.tokens[-1].text.strip() in ("<|im_end|>", "") and len(scored.tokens[0].top) == 2
    assert scored.loss == pytest.approx(-sum(t.logprob for t in scored.tokens) / len(scored.tokens))
    greedy = whole(info, first, max_new_tokens=4)[0]
    better = request_score(info, first, "please send 12 blue lamps", greedy)
    assert better.tokens[0].logprob > scored.tokens[0].logprob
    with pytest.raises(EngineError, match="not loaded"):
        request_score(info, "nope", "a", "b")


def test_a_hung_engine_is_ended_and_an_unrelated_process_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    claims = {"schema": 1, "port": 1, "pid": os.getpid(), "create_time": 1.0, "run": "x", "token": "t"}
    (folder / "engine.json").write_text(json.dumps(claims))
    assert find_engine(tmp_path) is None
    info = EngineInfo(tmp_path, 1, os.getpid(), 1.0, "t", "x")
    engine_client.stop_engine(info)  # and this process is still here
    assert engine_client.read_engine_status(info).status == "stopped"


def test_a_connection_error_is_explained(served: tuple[EngineInfo, str, str]) -> None:
    elsewhere = replace(served[0], port=9)
    with pytest.raises(EngineError, match="can't be reached"):
        engine_client.list_engine_models(elsewhere)
    assert engine_client.read_engine_status(elsewhere).status == "stopped"


def _until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)

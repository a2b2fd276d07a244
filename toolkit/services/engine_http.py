"""HTTP to the inference engine: replies, and the events of an answer as they arrive. Every failure is an EngineError.

Answers are server-sent events in OpenAI's format, with a `column` for each of several parallel answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from toolkit.errors import EngineError
from toolkit.services import service_http
from toolkit.services.engine_process import ENGINE_SERVICE, EngineInfo, read_engine_log_tail
from toolkit.services.service_http import connect_to_service

QUICK_REPLY_SECONDS = 30.0
"""For requests that compute nothing; the engine may be busy with an answer meanwhile."""
SILENCE_SECONDS = 60.0
"""The engine sends a comment every 10 s while it works: after this time it hangs."""


@dataclass(frozen=True)
class Token:
    """A token of an answer. logprob: natural logarithm. top: the most likely tokens at its position, with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """The next piece of an answer. tokens: only if their probabilities were requested."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Done:
    """The end of an answer, with its full text.

    prompt: the exact text that the model was given. ttft_s: seconds to the first token, including the time in the
    queue. finish_reason: stop | length | cancelled. notice: a remark on how it ended, or "".
    """

    text: str
    prompt: str
    prompt_tokens: int
    completion_tokens: int
    ttft_s: float
    tokens_per_second: float
    finish_reason: str
    seed: int
    notice: str = ""


def read_engine_reply(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a reply. Raises EngineError for a refusal."""
    return service_http.read_service_reply(ENGINE_SERVICE, response)


def stream_engine_answer(info: EngineInfo, path: str, body: dict[str, Any]) -> Iterator[Delta | Done]:
    """Yield the events of one answer; the last is a Done. Raises EngineError."""
    for _, event in stream_parallel_answers(info, path, body):
        if isinstance(event, EngineError):
            raise event
        yield event
        if isinstance(event, Done):
            return


def stream_parallel_answers(
    info: EngineInfo, path: str, body: dict[str, Any]
) -> Iterator[tuple[int, Delta | Done | EngineError]]:
    """Yield (column, event) of one or several answers until all have ended. Raises EngineError.

    An answer that fails yields an EngineError; the others continue.
    """
    texts: dict[int, list[str]] = {}
    with connect_to_service(info, SILENCE_SECONDS) as http, http.stream("POST", path, json=body) as response:
        if response.status_code >= 400:
            response.read()
        service_http.raise_service_error(ENGINE_SERVICE, response)
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            column = event.get("column", 0)
            if "error" in event:
                yield column, EngineError(event["error"]["message"], event["error"]["hint"])
                continue
            if not event["choices"]:
                continue
            delta = _parse_delta(event["choices"][0])
            text = texts.setdefault(column, [])
            if delta.text or delta.tokens:
                text.append(delta.text)
                yield column, delta
            if event["choices"][0]["finish_reason"]:
                yield column, _parse_done("".join(text), event)
    raise EngineError("The engine ended in the middle of the answer.", read_engine_log_tail(info.save_dir))


def _parse_delta(choice: dict[str, Any]) -> Delta:
    text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    figures = (choice.get("logprobs") or {}).get("content") or []
    return Delta(text, tuple(parse_answer_token(entry) for entry in figures))


def parse_answer_token(entry: dict[str, Any]) -> Token:
    """Return a token from its entry in a chat completion's `logprobs`."""
    top = tuple((other["token"], float(other["logprob"])) for other in entry["top_logprobs"])
    return Token(entry["token"], float(entry["logprob"]), top)


def _parse_done(text: str, event: dict[str, Any]) -> Done:
    usage, timings = event["usage"], event["timings"]
    return Done(
        text=text,
        prompt=event["prompt"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        ttft_s=timings["ttft_s"],
        tokens_per_second=timings["tokens_per_second"],
        finish_reason=event["choices"][0]["finish_reason"],
        seed=event["seed"],
        notice=event["notice"],
    )

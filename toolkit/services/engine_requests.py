"""What one can ask the inference engine: an answer, several side by side, and what a model gives to an expected one.

Every failure is an EngineError. The wire is `engine_http.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.config import InferenceConfig
from toolkit.data.conversations import MessageDict
from toolkit.errors import EngineError
from toolkit.services.engine_http import (
    SILENCE_SECONDS,
    Delta,
    Done,
    Token,
    parse_answer_token,
    read_engine_reply,
    stream_engine_answer,
    stream_parallel_answers,
)
from toolkit.services.engine_process import EngineInfo
from toolkit.services.service_http import connect_to_service


@dataclass(frozen=True)
class ScoredCompletion:
    """loss: the mean of minus the log-probabilities of `tokens`; perplexity: its exponential."""

    tokens: tuple[Token, ...]
    loss: float
    perplexity: float


def stream_chat(
    info: EngineInfo,
    model: str,
    messages: Sequence[MessageDict],
    inference: InferenceConfig,
    seed: int | None = None,
    *,
    prompt_of: str | None = None,
) -> Iterator[Delta | Done]:
    """The answer in pieces, then one Done. Closing the generator ends the answer within a token.

    model: a run id, or "base". prompt_of: the run whose prompt form and template the base is asked in.
    """
    body = {"messages": [dict(m) for m in messages], **_request_fields(model, inference, seed, prompt_of)}
    return stream_engine_answer(info, "/v1/chat/completions", body)


def stream_completion(
    info: EngineInfo,
    model: str,
    prompt: str,
    inference: InferenceConfig,
    seed: int | None = None,
    *,
    prompt_of: str | None = None,
) -> Iterator[Delta | Done]:
    """As stream_chat, but `prompt` is sent as it is, without a template."""
    return stream_engine_answer(
        info, "/v1/completions", {"prompt": prompt, **_request_fields(model, inference, seed, prompt_of)}
    )


@dataclass(frozen=True)
class EngineQuestion:
    """One of several questions that are answered side by side; the fields are those of stream_chat."""

    model: str
    messages: Sequence[MessageDict]
    inference: InferenceConfig
    seed: int | None
    prompt_of: str | None = None


def stream_comparison(
    info: EngineInfo, questions: Sequence[EngineQuestion], *, top_logprobs: int | None = None
) -> Iterator[tuple[int, Delta | Done | EngineError]]:
    """Answers side by side: (number of the question, event), until each has ended with a Done or an error of its own.

    Closing the generator ends all of them within a token. top_logprobs: also tell the figures of every token, with so
    many alternatives.
    """
    figures = {} if top_logprobs is None else {"logprobs": True, "top_logprobs": top_logprobs}
    asks = [
        {
            "messages": [dict(m) for m in q.messages],
            **_request_fields(q.model, q.inference, q.seed, q.prompt_of),
            **figures,
        }
        for q in questions
    ]
    return stream_parallel_answers(info, "/v1/compare", {"asks": asks})


def request_score(
    info: EngineInfo,
    model: str,
    prompt: str,
    completion: str,
    *,
    prompt_of: str | None = None,
    top_logprobs: int = 0,
    history: Sequence[MessageDict] = (),
) -> ScoredCompletion:
    """What a model gives to an expected answer after a row's prompt, its end included: as training would count it.

    history: the turns before the prompt, for a run on conversations.
    """
    body = {"model": model, "prompt": prompt, "completion": completion, "prompt_of": prompt_of,
            "top_logprobs": top_logprobs, "history": [dict(m) for m in history]}  # fmt: skip
    with connect_to_service(info, SILENCE_SECONDS) as http:
        found = read_engine_reply(http.post("/v1/score", json=body))
    return ScoredCompletion(
        tuple(parse_answer_token(entry) for entry in found["tokens"]), found["loss"], found["perplexity"]
    )


def _request_fields(model: str, inference: InferenceConfig, seed: int | None, prompt_of: str | None) -> dict[str, Any]:
    return {"model": model, "stream": True, "seed": seed, "prompt_of": prompt_of, **inference.model_dump()}

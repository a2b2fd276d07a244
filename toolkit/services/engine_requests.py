"""Requests to the inference engine: an answer, several answers in parallel, the score of an expected answer.

Every failure is an EngineError.
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
    """An expected answer as the model rates it.

    loss: mean negative log-probability (natural logarithm) of `tokens`. perplexity: its exponential.
    """

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
    """Yield the answer to a conversation in pieces, then one Done. Closing the generator stops it within a token.

    model: a name from `runs/model_names.py`. seed: None draws one. prompt_of: the run whose prompt format the base
    model is asked in.
    """
    body = {"messages": [dict(m) for m in messages], **_request_fields(model, inference, seed, prompt_of)}
    return stream_engine_answer(info, "/v1/chat/completions", body)


def stream_completion(info: EngineInfo, model: str, prompt: str, inference: InferenceConfig) -> Iterator[Delta | Done]:
    """Yield the answer to `prompt` as `stream_chat` does, without a chat template around it."""
    body = {"prompt": prompt, **_request_fields(model, inference, None, None)}
    return stream_engine_answer(info, "/v1/completions", body)


@dataclass(frozen=True)
class EngineQuestion:
    """One of several questions that are answered in parallel. The fields are the arguments of `stream_chat`."""

    model: str
    messages: Sequence[MessageDict]
    inference: InferenceConfig
    seed: int | None
    prompt_of: str | None = None


def stream_comparison(
    info: EngineInfo, questions: Sequence[EngineQuestion], *, top_logprobs: int | None = None
) -> Iterator[tuple[int, Delta | Done | EngineError]]:
    """Yield (index of the question, event) until each answer has ended with a Done or its own error.

    Closing the generator stops all of them within a token. top_logprobs: also request the probability of every token,
    with so many alternatives.
    """
    logprobs = {} if top_logprobs is None else {"logprobs": True, "top_logprobs": top_logprobs}
    asks = [
        {
            "messages": [dict(m) for m in q.messages],
            **_request_fields(q.model, q.inference, q.seed, q.prompt_of),
            **logprobs,
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
    """Return the score of an expected answer, including its end token, computed as the training loss is.

    prompt: the row's prompt. history: the turns before it, for a run on conversations.
    """
    body = {
        "model": model,
        "prompt": prompt,
        "completion": completion,
        "prompt_of": prompt_of,
        "top_logprobs": top_logprobs,
        "history": [dict(m) for m in history],
    }
    with connect_to_service(info, SILENCE_SECONDS) as http:
        reply = read_engine_reply(http.post("/v1/score", json=body))
    tokens = tuple(parse_answer_token(entry) for entry in reply["tokens"])
    return ScoredCompletion(tokens, reply["loss"], reply["perplexity"])


def _request_fields(model: str, inference: InferenceConfig, seed: int | None, prompt_of: str | None) -> dict[str, Any]:
    return {"model": model, "stream": True, "seed": seed, "prompt_of": prompt_of, **inference.model_dump()}

"""Chat with base and fine-tuned models: requests are passed on to the engine, which is started when one comes."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from toolkit.api.jobs.job_requests import resolve_base_model
from toolkit.api.jobs.tuned_models import base_model_of, find_tuned_model, list_tuned_runs, no_such_model
from toolkit.errors import EngineError, ToolkitError
from toolkit.runs.model_names import BASE
from toolkit.services import engine_client
from toolkit.services.engine_process import EngineInfo
from toolkit.services.service_http import CONNECT_SECONDS
from toolkit.system.foreign_files import parse_foreign_json
from toolkit.worker.serving.guard import error_body, read_request_body
from toolkit.worker.serving.request_models import RequestError

ANSWER_SECONDS = 600.0
"""Time without a byte after which an answer counts as lost; OpenAI's client waits as long."""


class EngineProxy:
    """Passes requests on to the engine of a save_dir. stand_in: the base model that OpenAI's names stand for."""

    def __init__(self, save_dir: Path, stand_in: str) -> None:
        self._save_dir, self._stand_in = save_dir, stand_in

    async def forward(self, request: Request) -> Response:
        """Answer a chat or a text completion. Raises RequestError."""
        try:
            body = parse_foreign_json(await read_request_body(request))
        except ValueError as error:
            raise RequestError(f"The body is not valid JSON: {error}.", "Correct the request.") from error
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise RequestError("The request names no model.", "Add the parameter 'model'.", param="model")
        asked = body["model"]
        run, name = await run_in_threadpool(self.find_model, asked)
        info = await run_in_threadpool(self._start_engine, run, name)
        return await _send(info, request.url.path, {**body, "model": name}, asked)

    def find_model(self, asked: str) -> tuple[str, str]:
        """Return (id of the run for which the engine loads a base model, name in the engine). Raises RequestError."""
        tuned = find_tuned_model(self._save_dir, asked)
        if tuned is not None:
            return tuned.run, tuned.name
        base = resolve_base_model(asked, self._stand_in)
        if base not in self.list_base_models():
            raise no_such_model(asked)
        run = next((run for run in list_tuned_runs(self._save_dir) if base_model_of(run) == base), None)
        if run is None:
            message = f"The base model '{base[:120]}' answers once a run was trained on it."
            hint = "Fine-tune it first (POST /v1/fine_tuning/jobs)."
            raise RequestError(message, hint, status=404, code="model_not_found", param="model")
        return run.id, BASE

    def list_base_models(self) -> list[str]:
        """Return the base models that the API knows: of the runs that have a model, and the one of OpenAI's names."""
        return list(dict.fromkeys([self._stand_in, *map(base_model_of, list_tuned_runs(self._save_dir))]))

    def _start_engine(self, run: str, name: str) -> EngineInfo:
        try:
            info = engine_client.start_engine(self._save_dir, run)
            engine_client.wait_for_engine(info, ANSWER_SECONDS)
            if name not in (BASE, run):
                engine_client.attach_adapter(info, name)
        except EngineError as error:
            raise RequestError(error.message, error.hint, status=503, code="engine_unavailable") from error
        except ToolkitError as error:
            raise RequestError(error.message, error.hint, status=404, code="model_not_found", param="model") from error
        return info


async def _send(info: EngineInfo, path: str, body: dict[str, Any], asked: str) -> Response:
    """Return the engine's response, with the model's name as it was asked."""
    client = httpx.AsyncClient(
        base_url=info.url,
        headers={"Authorization": f"Bearer {info.token}"},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # plain HTTP: no certificates to load
        trust_env=False,
    )
    try:
        response = await client.send(client.build_request("POST", path, json=body), stream=True)
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return StreamingResponse(_pass_events(client, response, asked), media_type="text/event-stream")
        reply = json.loads(await response.aread())
    except (httpx.HTTPError, ValueError) as error:
        await client.aclose()
        raise _lost_engine() from error
    await client.aclose()
    return JSONResponse(_rename_model(reply, asked), status_code=response.status_code)


async def _pass_events(client: httpx.AsyncClient, response: httpx.Response, asked: str) -> AsyncIterator[bytes]:
    try:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = _rename_model(json.loads(line.removeprefix("data: ")), asked)
                line = f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}"
            yield f"{line}\n".encode()
    except (httpx.HTTPError, ValueError):
        yield f"data: {json.dumps(error_body(_lost_engine()))}\n\n".encode()
    finally:  # also when the client has gone: the engine then cancels the answer
        await response.aclose()
        await client.aclose()


def _lost_engine() -> RequestError:
    message = "The engine ended in the middle of the answer."
    return RequestError(message, "Send the request again.", status=503, code="engine_unavailable")


def _rename_model(reply: dict[str, Any], asked: str) -> dict[str, Any]:
    return {**reply, "model": asked} if "model" in reply else reply

"""Talks to the inference engine: finds it, starts it, asks it, ends it. No torch in here.

One engine serves a save_dir, started by any app or command line and found again by the next through
`engine/engine.json`. It counts as living only while it holds its lock and its pid has the start time written there.
Everything that goes wrong is an EngineError.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.config import Config
from toolkit.data.conversations import MessageDict
from toolkit.errors import EngineError, RunError
from toolkit.runs.run_dir import open_run, read_run_config
from toolkit.services import engine_process
from toolkit.services.engine_http import QUICK_REPLY_SECONDS, SILENCE_SECONDS, read_engine_reply
from toolkit.services.engine_process import EngineInfo, find_engine
from toolkit.services.service_http import CONNECT_SECONDS, connect_to_service
from toolkit.services.service_process import end_service, is_service_alive
from toolkit.settings.device_defaults import ComputeDevice, resolve_precision
from toolkit.system.machine import Machine, read_known_machine

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class EngineStatus:
    """status: loading | ready | failed | stopped. phase: what is being loaded. waiting: answers queued or going on.

    memory_bytes, gpu_memory_bytes: what the engine holds, 0 where it is not known.
    """

    status: str
    phase: str = ""
    message: str = ""
    hint: str = ""
    progress: float | None = None
    seconds: float = 0.0
    runs: tuple[str, ...] = ()
    base: str = ""
    waiting: int = 0
    memory_bytes: int = 0
    gpu_memory_bytes: int = 0


@dataclass(frozen=True)
class RenderedPrompt:
    prompt: str
    prompt_tokens: int


def base_model_key(config: Config, machine: Machine | None) -> str:
    """Equal for two runs exactly when one loaded base model can serve both. machine: None while it is not known; what
    an empty setting becomes there then differs from every choice."""
    model, args = config.model, config.training.training_args
    quantized = model.bitsandbytes.model_dump(mode="json") if model.quantize else None
    numbers: object = [args.bf16, args.fp16]
    if machine is not None:
        cuda = machine.cuda and model.device_map != "cpu"
        numbers = resolve_precision(config, ComputeDevice(cuda=cuda, bf16_gpu=machine.bf16_gpu))
    return json.dumps([model.hf_model_ckpt, model.device_map, quantized, numbers, bool(config.accelerate)])


def start_engine(save_dir: Path, run_id: str, *, port: int | None = None, idle_minutes: float = 30) -> EngineInfo:
    """An engine that serves `run_id`, or is about to: poll `status`, or `wait_ready`. Returns within a few seconds.

    A living engine with the same base model gets the run's adapter; one with another base is ended first, unless it
    is answering just now. idle_minutes: the engine ends by itself when unused for so long; 0 is never.
    """
    save_dir = save_dir.absolute()
    run = open_run(save_dir, run_id)
    config = read_run_config(run)
    with engine_process.lock_engine_start(save_dir):
        living = find_engine(save_dir)
        if living is not None and port not in (None, living.port):
            raise EngineError(f"The engine of {save_dir} already runs on port {living.port}.", "Stop it first.")
        if living is not None:
            seen = read_engine_status(living)
            if seen.status in ("loading", "ready") and _has_same_base(save_dir, living, config):
                attach_adapter(living, run_id)
                return living
            if seen.waiting:
                message = "The engine is answering with another base model."
                raise EngineError(message, "Wait for the answer, or stop it.")
            stop_engine(living)
        return engine_process.spawn_engine(run, config, port=port, idle_minutes=idle_minutes)


def _has_same_base(save_dir: Path, living: EngineInfo, config: Config) -> bool:
    try:
        machine = read_known_machine(save_dir)
        return base_model_key(read_run_config(open_run(save_dir, living.run)), machine) == base_model_key(
            config, machine
        )
    except RunError:
        return False  # the run that it was started with has been deleted since


def read_engine_status(info: EngineInfo) -> EngineStatus:
    """What the engine is doing; "stopped" when it is gone. Never raises for an engine that ended."""
    if not is_service_alive(info):
        return EngineStatus(
            "stopped", message="The engine has ended.", hint=engine_process.read_engine_log_tail(info.save_dir)
        )
    try:
        with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
            found = read_engine_reply(http.get("/health"))
    except EngineError as error:
        return EngineStatus("stopped", message=error.message, hint=error.hint)
    found["runs"] = tuple(found["runs"])
    return EngineStatus(**{name: found[name] for name in EngineStatus.__dataclass_fields__ if name in found})


def wait_for_engine(info: EngineInfo, timeout: float = 600) -> EngineStatus:
    """Wait until the model has loaded; raises EngineError when it failed, ended, or took longer than `timeout` s."""
    end = time.monotonic() + timeout
    while (seen := read_engine_status(info)).status == "loading":
        if time.monotonic() > end:
            raise EngineError(f"The model has not loaded within {timeout:.0f} s.", "Wait longer, or look at the log.")
        time.sleep(_POLL_SECONDS)
    if seen.status != "ready":
        raise EngineError(seen.message, seen.hint)
    return seen


def list_engine_models(info: EngineInfo) -> list[str]:
    """ "base" and the attached runs."""
    with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
        return [model["id"] for model in read_engine_reply(http.get("/v1/models"))["data"]]


def attach_adapter(info: EngineInfo, name: str) -> None:
    """Attach a run's adapter or a checkpoint (`runs/model_names.py`). Waits for a running answer, not for a base model
    that is still loading."""
    with connect_to_service(info, SILENCE_SECONDS) as http:
        read_engine_reply(http.post("/v1/load", json={"run": name}))


def stop_engine(info: EngineInfo, grace_seconds: float = 5.0) -> None:
    """End the engine and give its memory back; returns when the process is gone."""
    if not is_service_alive(info):
        return
    try:
        with connect_to_service(info, CONNECT_SECONDS) as http:
            read_engine_reply(http.post("/shutdown"))
        polite = True
    except EngineError:
        polite = False  # it hangs, or ends just now: signals settle it
    end_service(info, grace_seconds if polite else 0.0)


def render_engine_prompt(
    info: EngineInfo, model: str, messages: Sequence[MessageDict], *, prompt_of: str | None = None
) -> RenderedPrompt:
    """The exact prompt string of a conversation, as the model would be asked."""
    body = {"model": model, "messages": [dict(m) for m in messages], "prompt_of": prompt_of}
    with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
        found = read_engine_reply(http.post("/v1/render", json=body))
    return RenderedPrompt(found["prompt"], found["prompt_tokens"])


def serve_in_foreground(save_dir: Path, run_id: str, port: int | None = None, also: Sequence[str] = ()) -> None:
    """For the command line: start the engine, print how to reach it, stay until Ctrl-C or until it ends.

    also: more models on the same base. Raises EngineError when it can't be started, or one of them not attached. An
    engine that was there before is left running at Ctrl-C.
    """
    before = find_engine(save_dir)
    info = start_engine(save_dir, run_id, port=port, idle_minutes=0)
    ours = before is None or before.pid != info.pid
    try:
        print("Loading the model ...", flush=True)
        wait_for_engine(info)
        for name in also:
            attach_adapter(info, name)
        print(engine_process.describe_engine_access(info, run_id, list_engine_models(info)), flush=True)
        _wait_for_engine_end(info)
        if ours:
            raise EngineError("The engine has ended.", engine_process.read_engine_log_tail(info.save_dir))
    except KeyboardInterrupt:
        print("\nEnding." if ours else "\nThe engine was there before and goes on.", flush=True)
    finally:
        if ours:
            stop_engine(info)


def _wait_for_engine_end(info: EngineInfo) -> None:
    """Wait; raises KeyboardInterrupt at Ctrl-C, even at a moment in which Python would ignore an exception."""
    asked: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        while is_service_alive(info):
            time.sleep(_POLL_SECONDS)
            if asked:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)

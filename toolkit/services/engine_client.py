"""Client of the inference engine: find it, start it, attach adapters, stop it.

One engine serves a save_dir. Any app or command line may start it; the others find it through `engine/engine.json`. It
is alive only while it holds its lock and its pid has the start time given there. Every failure is an EngineError.
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
from toolkit.system.printable import clean_terminal_text

_POLL_SECONDS = 0.2
"""Between two checks of a model that is loading, or of an engine in the foreground."""
EXIT_GRACE_SECONDS = 5.0  # for the engine to exit by itself before it gets signals


@dataclass(frozen=True)
class EngineStatus:
    """status: loading | ready | failed | stopped. phase: what is being loaded. waiting: answers queued or in progress.

    progress: 0 to 1, None while unknown. seconds: time spent loading. runs: names of the attached models. base: the
    base model. memory_bytes, gpu_memory_bytes: what the engine occupies, 0 where it is unknown.
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
    """The exact text that the model is given, and its length in tokens."""

    prompt: str
    prompt_tokens: int


def base_model_key(config: Config, machine: Machine | None) -> str:
    """Return a key that is equal for two runs exactly if one loaded base model can serve both.

    machine: None while it is unknown. An open precision setting then equals no explicit choice, because what it
    resolves to depends on the machine.
    """
    model, args = config.model, config.training.training_args
    quantized = model.bitsandbytes.model_dump(mode="json") if model.quantize else None
    numbers: object = [args.bf16, args.fp16]
    if machine is not None:
        cuda = machine.cuda and model.device_map != "cpu"
        numbers = resolve_precision(config, ComputeDevice(cuda=cuda, bf16_gpu=machine.bf16_gpu))
    return json.dumps([model.hf_model_ckpt, model.device_map, quantized, numbers, bool(config.accelerate)])


def start_engine(save_dir: Path, run_id: str, *, port: int | None = None, idle_minutes: float = 30) -> EngineInfo:
    """Return an engine that serves `run_id` or is loading it. Returns within a few seconds; see `wait_for_engine`.

    A running engine with the same base model attaches the run's adapter. One with another base model is stopped
    first; EngineError is raised if it is answering. port: None takes any free one. idle_minutes: the engine stops by
    itself after so long without a request; 0 means never.
    """
    save_dir = save_dir.absolute()
    run = open_run(save_dir, run_id)
    config = read_run_config(run)
    with engine_process.lock_engine_start(save_dir):
        running = find_engine(save_dir)
        if running is not None and port not in (None, running.port):
            raise EngineError(f"An engine for {save_dir} is already running on port {running.port}.", "Stop it first.")
        if running is not None:
            status = read_engine_status(running)
            if status.status in ("loading", "ready") and _has_same_base(save_dir, running, config):
                attach_adapter(running, run_id)
                return running
            if status.waiting:
                message = "The engine is answering with another base model."
                raise EngineError(message, "Wait for the answer, or stop it.")
            stop_engine(running)  # two base models would need twice the memory
        return engine_process.spawn_engine(run, config, port=port, idle_minutes=idle_minutes)


def _has_same_base(save_dir: Path, running: EngineInfo, config: Config) -> bool:
    machine = read_known_machine(save_dir)
    try:
        own_config = read_run_config(open_run(save_dir, running.run))
    except RunError:
        return False  # the run that it was started with has been deleted since
    return base_model_key(own_config, machine) == base_model_key(config, machine)


def read_engine_status(info: EngineInfo) -> EngineStatus:
    """Return the status of the engine; "stopped" when it has ended. Raises nothing for an engine that has ended."""
    if not is_service_alive(info):
        return EngineStatus(
            "stopped", message="The engine has ended.", hint=engine_process.read_engine_log_tail(info.save_dir)
        )
    try:
        with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
            reply = read_engine_reply(http.get("/health"))
    except EngineError as error:
        return EngineStatus("stopped", message=error.message, hint=error.hint)
    reply["runs"] = tuple(reply["runs"])
    # an engine of another version may send fields that this one does not have
    return EngineStatus(**{name: reply[name] for name in EngineStatus.__dataclass_fields__ if name in reply})


def wait_for_engine(info: EngineInfo, timeout: float = 600) -> EngineStatus:
    """Wait until the model has loaded. Raises EngineError if it fails, ends, or takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (current := read_engine_status(info)).status == "loading":
        if time.monotonic() > deadline:
            raise EngineError(f"The model did not load within {timeout:.0f} s.", "Wait longer, or check the log.")
        time.sleep(_POLL_SECONDS)
    if current.status != "ready":
        raise EngineError(current.message, current.hint)
    return current


def list_engine_models(info: EngineInfo) -> list[str]:
    """Return the names of the models that the engine serves: "base" and the attached adapters."""
    with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
        return [model["id"] for model in read_engine_reply(http.get("/v1/models"))["data"]]


def attach_adapter(info: EngineInfo, name: str) -> None:
    """Attach the adapter of a run or of a checkpoint, named as in `runs/model_names.py`.

    Waits for an answer in progress, but not for a base model that is still loading. Raises EngineError.
    """
    with connect_to_service(info, SILENCE_SECONDS) as http:
        read_engine_reply(http.post("/v1/load", json={"run": name}))


def stop_engine(info: EngineInfo) -> None:
    """Stop the engine and release its memory. Return when the process has ended."""
    if not is_service_alive(info):
        return
    try:
        with connect_to_service(info, CONNECT_SECONDS) as http:
            read_engine_reply(http.post("/shutdown"))
        accepted = True
    except EngineError:
        accepted = False  # it hangs or is just ending: signals end it in either case
    end_service(info, EXIT_GRACE_SECONDS if accepted else 0.0)


def render_engine_prompt(info: EngineInfo, model: str, messages: Sequence[MessageDict]) -> RenderedPrompt:
    """Return the exact prompt that the model would be given for a conversation. Raises EngineError."""
    body = {"model": model, "messages": [dict(m) for m in messages]}
    with connect_to_service(info, QUICK_REPLY_SECONDS) as http:
        reply = read_engine_reply(http.post("/v1/render", json=body))
    return RenderedPrompt(reply["prompt"], reply["prompt_tokens"])


def serve_in_foreground(save_dir: Path, run_id: str, port: int | None = None, also: Sequence[str] = ()) -> None:
    """Start the engine, print how to reach it, and wait until Ctrl-C or until it ends. For the command line.

    also: further models on the same base model. An engine that was already running continues after Ctrl-C. Raises
    EngineError when the engine can't be started or a model can't be attached.
    """
    earlier = find_engine(save_dir)
    info = start_engine(save_dir, run_id, port=port, idle_minutes=0)
    ours = earlier is None or earlier.pid != info.pid
    try:
        print("Loading the model ...", flush=True)
        wait_for_engine(info)
        for name in also:
            attach_adapter(info, name)
        access = engine_process.describe_engine_access(info, run_id, list_engine_models(info))
        print(clean_terminal_text(access), flush=True)
        _wait_for_engine_end(info)
        if ours:
            raise EngineError("The engine has ended.", engine_process.read_engine_log_tail(info.save_dir))
    except KeyboardInterrupt:
        print("\nStopping the engine." if ours else "\nThe engine was already running and continues.", flush=True)
    finally:
        if ours:
            stop_engine(info)


def _wait_for_engine_end(info: EngineInfo) -> None:
    """Wait until the engine has ended. Raises KeyboardInterrupt at Ctrl-C."""
    # a handler of its own, because Python ignores exceptions that are raised in destructors and callbacks
    interrupts: list[bool] = []
    earlier_handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        while is_service_alive(info):
            time.sleep(_POLL_SECONDS)
            if interrupts:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, earlier_handler)

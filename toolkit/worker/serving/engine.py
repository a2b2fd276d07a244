"""The model behind the inference server: a base model, the adapters of its runs, and the prompt format of each run.

Several threads may call it at the same time: a fair lock lets one of them compute, and answers take turns between two
tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.chat_messages import TOOLS_ROLE, Message, parse_message, parse_tools
from toolkit.data.conversations import MessageDict
from toolkit.data.examples.templates import Example
from toolkit.errors import DataError, EngineError
from toolkit.runs.checkpoints import verify_checkpoint
from toolkit.runs.model_names import BASE, AdapterReference, list_checkpoint_references, parse_model_name
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import COMMIT_NAME, verify_commit
from toolkit.worker.checkpoints import training_state
from toolkit.worker.models import library_arguments
from toolkit.worker.models import load as load_module
from toolkit.worker.models.adapter_files import (
    adapter_from_training,
    read_adapter,
    read_adapter_weights,
)
from toolkit.worker.models.adapter_settings import AdapterFile, AdapterWeights
from toolkit.worker.models.adapter_switch import AdapterSwitch
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.serving import stream_answer, token_scores
from toolkit.worker.serving.request_models import RequestError, RequestMessage
from toolkit.worker.serving.text_stream import TextPiece, TokenScore
from toolkit.worker.serving.turn_taking import FairLock
from toolkit.worker.tokens import labels as labels_module
from toolkit.worker.tokens.chat_outline import UNWRITTEN_PARTS, outline_conversation, read_outline
from toolkit.worker.tokens.conversation import encode_conversation_prompt
from toolkit.worker.tokens.examples import chat_enabled, encode_prompt

_TOOL_PARTS = ("tools_unwritten", "calls_unwritten", "results_unwritten")


class Engine:
    """A loaded base model with the adapters of its runs; create it with `Engine.load`."""

    def __init__(
        self, save_dir: Path, config: Config, adapters: AdapterSwitch, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.save_dir, self.config, self.adapters, self.tokenizer = save_dir, config, adapters, tokenizer
        self.device = load_module.detect_compute_device(config)
        self.turn_lock = FairLock()
        self._configs: dict[str, Config] = {}
        self._commits: dict[str, bytes] = {}  # commit files of the adapters as they were attached

    @classmethod
    def load(cls, save_dir: Path, run_id: str, report_phase: Callable[[str], None]) -> Engine:
        """Load the base model of a run and attach the run's adapter.

        Raises ToolkitError: the adapter or the model can't be loaded.
        """
        load_module.quiet_libraries()
        config = read_run_config(open_run(save_dir, run_id))
        _verified_adapter_folder(open_run(save_dir, run_id))  # fail early: loading the base model takes long
        report_phase("loading tokenizer")
        folder = resolve_model_folder(config)
        tokenizer = load_module.load_tokenizer(config, folder)
        report_phase("loading model")
        base = load_module.load_base_model(config, folder=folder).eval()
        engine = cls(save_dir, config, AdapterSwitch(base), tokenizer)
        report_phase("attaching adapter")
        engine.attach(run_id)
        engine.adapters.select(run_id)
        return engine

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the attached runs and checkpoints, in the order in which they were attached."""
        return tuple(self._configs)

    @property
    def base_name(self) -> str:
        """Name of the base model in the settings."""
        return str(self.config.model.hf_model_ckpt)

    def attach(self, name: str) -> None:
        """Attach the adapter or a checkpoint of a run, or replace it if the run has saved a newer one.

        Raises ToolkitError: the run has another base model, or its weights are missing or damaged.
        """
        if not self._is_new(name):
            return
        wanted = parse_model_name(name)
        run = open_run(self.save_dir, wanted.run)
        config = read_run_config(run)
        if not self.shares_base(config):
            message = f"Run {run.id} was trained on another base model than the loaded one ({self.base_name})."
            hint = "Stop the engine, and start it for that run."
            raise RequestError(message, hint, status=409, code="other_base")
        with self.turn_lock.held():
            if self._is_new(name):  # another thread may have attached it while this one waited for the lock
                folder = _verified_weights_folder(run, wanted)
                commit = (folder / COMMIT_NAME).read_bytes()
                self.adapters.attach(name, *_read_weights_of(config, wanted, folder))
                self._configs[name], self._commits[name] = config, commit

    def _is_new(self, name: str) -> bool:
        """Return whether the run's folder has weights that are not attached. Deleted weights stay attached."""
        if name not in self._commits:
            return True
        wanted = parse_model_name(name)
        try:
            commit = (wanted.folder(RunDir(self.save_dir / "runs" / wanted.run)) / COMMIT_NAME).read_bytes()
        except FileNotFoundError:
            return False
        return commit != self._commits[name]

    def shares_base(self, config: Config) -> bool:
        """Return whether a run has this base model, loaded with the same arguments."""
        ours, theirs = (
            (
                resolve_model_folder(c),
                library_arguments.model_load_args(c, self.device),
                library_arguments.quantization_args(c),
            )
            for c in (self.config, config)
        )
        return ours == theirs

    def config_for_model(self, name: str, prompt_of: str | None = None) -> Config:
        """Return the config whose prompt format and settings apply to model `name`.

        The base model has no prompt format: it uses that of the run `prompt_of`, or of the run that was loaded first.
        Raises RequestError: the model is not loaded.
        """
        for wanted in (name, prompt_of or name):
            if wanted != BASE and wanted not in self._configs:
                message = f"The model '{wanted}' is not loaded."
                loaded = ", ".join((BASE, *self._configs))
                hint = f"Loaded models: {loaded}. To add a run, send its ID to POST /v1/load."
                raise RequestError(message, hint, status=404, code="model_not_found", param="model")
        format_name = prompt_of or name
        return self._configs[format_name] if format_name != BASE else self.config

    def encode_messages(
        self, config: Config, messages: Sequence[RequestMessage], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[str, list[int]]:
        """Return (text, ids) of the exact prompt of a conversation, made by the same code as in training.

        tools: those that the model may call. Raises RequestError: the run or its chat template does not accept these
        messages or tools.
        """
        system, history, last = _split_messages(messages)
        uses_tools = bool(tools) or any(message.uses_tools for message in messages)
        if not chat_enabled(config, self.tokenizer):
            if system or history or uses_tools:
                message = "This run was trained without a chat template, so it takes one prompt and no earlier messages"
                message += " or tools." if uses_tools else "."
                hint = "Send a single user message, or use /v1/completions."
                raise RequestError(message, hint, code="no_chat_template", param="messages")
            return encode_prompt(config, self.tokenizer, last)
        turns = _read_messages([one for one in messages if one.text or one.role != "system"], tools)
        if uses_tools:
            self._check_tools_written(turns)
        try:
            prompt = encode_conversation_prompt(self.tokenizer, [*turns, Message("assistant", "")])
        except Exception as error:  # a template may raise any exception for roles that it does not know
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            message = f"The model's chat template rejects these messages: {reason[0]}"
            hint = "Change the order or the roles of the messages."
            raise RequestError(message, hint, param="messages") from error
        if system and system.strip() not in prompt[0]:
            self._check_system_written(turns)
        return prompt

    def _check_system_written(self, turns: Sequence[Message]) -> None:
        """Raise RequestError if the chat template leaves out the system message; some write it in another form."""
        facts = read_outline(self.tokenizer, outline_conversation(turns))
        if facts and "text_unwritten" in facts.unwritten:
            message = "This model's chat template leaves out the system message."
            hint = "Remove it, or put its text into the first user message."
            raise RequestError(message, hint, code="system_not_supported", param="messages")

    def _check_tools_written(self, turns: Sequence[Message]) -> None:
        """Raise RequestError if the chat template leaves out tools, tool calls or tool results."""
        facts = read_outline(self.tokenizer, outline_conversation(turns))
        parts = [UNWRITTEN_PARTS[kind] for kind in (facts.unwritten if facts else ()) if kind in _TOOL_PARTS]
        if parts:
            message = f"This model's chat template does not write the {' and the '.join(parts)} of the request."
            hint = "Remove them from the request, or serve a run of a model whose chat template supports tools."
            raise RequestError(message, hint, code="tools_not_supported", param="tools")

    def encode_raw_text(self, config: Config, text: str) -> tuple[str, list[int]]:
        """Return (text, ids) of a prompt without the chat template; special tokens in the text are recognized."""
        if chat_enabled(config, self.tokenizer):  # the caller writes what the template would write, BOS included
            return text, list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return encode_prompt(config, self.tokenizer, text)

    def answer(
        self, request: stream_answer.GenerationRequest, emit: Callable[[TextPiece], None], cancelled: threading.Event
    ) -> stream_answer.GeneratedAnswer:
        """Generate an answer and call `emit` with its pieces; takes turns with other answers.

        Raises RequestError: the prompt is empty, or the prompt and the answer do not fit.
        """
        if not request.ids:
            raise RequestError("The prompt is empty.", "Enter a prompt.", param="prompt")
        if request.model != BASE:
            self.attach(request.model)
        with self.turn_lock.held():
            self.adapters.select(request.model)
            pause = EngineYieldPoint(self.turn_lock, self.adapters, request.model)
            return stream_answer.stream_answer(self.adapters.model, self.tokenizer, request, emit, cancelled, pause)

    def score_completion(
        self,
        name: str,
        config: Config,
        prompt: str,
        completion: str,
        alternatives: int,
        history: Sequence[RequestMessage] = (),
    ) -> list[TokenScore]:
        """Return the score of each token of `completion` after `prompt`, with its end token, as training computes it.

        name: the model. alternatives: how many per token. history: the messages before the prompt, for a run that was
        trained on conversations. Raises RequestError: prompt and completion exceed the context length.
        """
        chat, limit = (
            chat_enabled(config, self.tokenizer),
            stream_answer.loaded_context_length(self.adapters.model),
        )
        row = labels_module.prepare_examples(
            [Example(prompt, completion, _conversation_to_score(history, prompt, completion))],
            self.tokenizer,
            limit or 1_048_576,
            chat,
        ).table
        if not row.num_rows:
            message = f"Prompt and answer exceed the model's context length of {limit:,} tokens."
            raise RequestError(message, "Shorten the prompt.", code="context_length_exceeded", param="prompt")
        ids, labels = row["input_ids"][0].as_py(), row["labels"][0].as_py()
        completion_start = next(at for at, label in enumerate(labels) if label != labels_module.IGNORED_LABEL)
        if name != BASE:
            self.attach(name)
        with self.turn_lock.held():
            self.adapters.select(name)
            return token_scores.score_given_tokens(
                self.adapters.model, self.tokenizer, ids, max(1, completion_start), alternatives
            )


class EngineYieldPoint(stream_answer.YieldPoint):
    """Lets other answers use the model, then restores this answer's adapter and random number generators."""

    def __init__(self, turn_lock: FairLock, adapters: AdapterSwitch, name: str) -> None:
        self._turn_lock, self._adapters, self._name = turn_lock, adapters, name
        self.switch_seconds = 0.0

    def should_yield(self) -> bool:
        return self._turn_lock.contended

    def yield_turn(self) -> None:
        state = torch.get_rng_state()
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._turn_lock.yield_turn()
        begin = time.perf_counter()
        self._adapters.select(self._name)
        self.switch_seconds = time.perf_counter() - begin
        torch.set_rng_state(state)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def _verified_weights_folder(run: RunDir, wanted: AdapterReference) -> Path:
    """Return the folder of the weights after verifying its commit, of a checkpoint as strictly as before a resume."""
    if wanted.step is None:
        return _verified_adapter_folder(run)
    folder = wanted.folder(run)
    if not folder.is_dir():
        steps = ", ".join(str(one.step) for one in list_checkpoint_references(run)) or "none"
        message = f"Run {run.id} has no checkpoint of step {wanted.step}."
        hint = f"Only the newest two checkpoints and the best one are kept. Available steps: {steps}."
        raise RequestError(message, hint, status=404, code="no_checkpoint")
    return verify_checkpoint(folder, run.id).path


def _read_weights_of(config: Config, wanted: AdapterReference, folder: Path) -> tuple[AdapterFile, AdapterWeights]:
    if wanted.step is None:
        return read_adapter(folder)
    return adapter_from_training(config, read_adapter_weights(folder / training_state.CHECKPOINT_WEIGHTS_FILE))


def _verified_adapter_folder(run: RunDir) -> Path:
    if not run.adapter_dir.is_dir():
        raise EngineError(
            f"Run {run.id} has no adapter yet.", "Wait until the run has finished, or choose another one."
        )
    verify_commit(run.adapter_dir, require_own_signature=False)
    return run.adapter_dir


def _conversation_to_score(history: Sequence[RequestMessage], prompt: str, completion: str) -> tuple[Message, ...]:
    """Return the conversation that ends with `completion`, its only trained message; empty if there is no history."""
    if not history:
        return ()
    before = (replace(message, learned=False) for message in _read_messages(history, ()))
    return (*before, Message("user", prompt), Message("assistant", completion, learned=True))


def _split_messages(messages: Sequence[RequestMessage]) -> tuple[str | None, list[MessageDict], str]:
    """Return (system text, earlier messages, text of the last user message)."""
    first = messages[0].role in ("system", "developer")
    system = messages[0].text if first else None
    turns = messages[1:] if first else messages
    if any(message.role in ("system", "developer") for message in turns):
        message = "Only the first message can be a system message."
        raise RequestError(message, "Move the system message to the start.", param="messages")
    if not turns or turns[-1].role not in ("user", "tool"):
        message = "The last message is not a user message."
        hint = "End the conversation with a user message or the result of a tool."
        raise RequestError(message, hint, param="messages")
    return system, [{"role": m.role, "content": m.text} for m in turns[:-1]], turns[-1].text


def _read_messages(messages: Sequence[RequestMessage], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the messages as training reads them from a file, with the entry of the tools.

    Raises RequestError: a tool or a tool call is incomplete.
    """
    try:
        listed = parse_tools(list(tools))
        sent = [{**message.model_dump(exclude_none=True), "content": message.text} for message in messages]
        return [
            *([Message(TOOLS_ROLE, listed)] if listed else []),
            *(parse_message(number, message) for number, message in enumerate(sent, start=1)),
        ]
    except DataError as error:
        message = f"The request can't be read: {error.message}"
        raise RequestError(message, error.hint, param="messages") from error

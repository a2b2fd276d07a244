"""The model behind the server: a base, the adapters of its runs, and how each run's prompts are written.

Several threads may ask at once: the baton lets one compute, and they take turns between two tokens. Knows run
directories, no HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.conversations import Message, MessageDict
from toolkit.data.examples.templates import Example
from toolkit.errors import EngineError
from toolkit.runs.checkpoints import verify_checkpoint
from toolkit.runs.model_names import BASE, AdapterReference, list_checkpoint_references, parse_model_name
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import COMMIT_NAME, verify_commit
from toolkit.worker.checkpoints import training_state
from toolkit.worker.models import library_arguments
from toolkit.worker.models import load as load_module
from toolkit.worker.models.adapter_files import (
    AdapterFile,
    AdapterWeights,
    adapter_from_training,
    read_adapter,
    read_adapter_weights,
)
from toolkit.worker.models.adapter_switch import AdapterSwitch
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.serving import stream_answer, token_scores
from toolkit.worker.serving.request_models import RequestError, RequestMessage
from toolkit.worker.serving.text_stream import TextPiece, TokenScore
from toolkit.worker.serving.turn_taking import FairLock
from toolkit.worker.tokens import labels as labels_module
from toolkit.worker.tokens.examples import chat_enabled, encode_prompt


class Engine:
    """Load with `Engine.load`; then `answer`. `runs`: the names (`answerers.py`) of what is attached, in that order."""

    def __init__(
        self, save_dir: Path, config: Config, adapters: AdapterSwitch, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.save_dir, self.config, self.adapters, self.tokenizer = save_dir, config, adapters, tokenizer
        self.place = load_module.detect_compute_device(config)
        self.baton = FairLock()
        self._configs: dict[str, Config] = {}
        self._commits: dict[str, bytes] = {}  # of the adapters as they were attached

    @classmethod
    def load(cls, save_dir: Path, run_id: str, phase: Callable[[str], None]) -> Engine:
        """The base model of a run, with the run's adapter. Raises ToolkitError."""
        load_module.quiet_libraries()
        config = read_run_config(open_run(save_dir, run_id))
        _verified_adapter_folder(open_run(save_dir, run_id))  # a missing adapter is found before the base has loaded
        phase("loading tokenizer")
        folder = resolve_model_folder(config)
        tokenizer = load_module.load_tokenizer(config, folder)
        phase("loading model")
        base = load_module.load_base_model(config, folder=folder).eval()
        engine = cls(save_dir, config, AdapterSwitch(base), tokenizer)
        phase("attaching adapter")
        engine.attach(run_id)
        engine.adapters.select(run_id)
        return engine

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(self._configs)

    @property
    def base_name(self) -> str:
        return str(self.config.model.hf_model_ckpt)

    def attach(self, name: str) -> None:
        """Add a run's adapter or checkpoint, or take its new one when it has gone on since. Raises ToolkitError."""
        if not self._is_new(name):
            return
        wanted = parse_model_name(name)
        run = open_run(self.save_dir, wanted.run)
        config = read_run_config(run)
        if not self.shares_base(config):
            message = f"Run {run.id} was trained on another base model than the loaded one ({self.base_name})."
            raise RequestError(message, "Stop the engine and start it for that run.", status=409, code="other_base")
        with self.baton.held():
            if self._is_new(name):  # nobody else was quicker
                folder = _verified_weights_folder(run, wanted)
                commit = (folder / COMMIT_NAME).read_bytes()
                self.adapters.attach(name, *_read_weights_of(config, wanted, folder))
                self._configs[name], self._commits[name] = config, commit

    def _is_new(self, name: str) -> bool:
        """Whether other weights than the attached ones lie in the run's folder. What is gone stays attached."""
        if name not in self._commits:
            return True
        wanted = parse_model_name(name)
        try:
            found = (wanted.folder(RunDir(self.save_dir / "runs" / wanted.run)) / COMMIT_NAME).read_bytes()
        except FileNotFoundError:
            return False
        return found != self._commits[name]

    def shares_base(self, config: Config) -> bool:
        """Whether a run's base is this one, loaded the same way."""
        ours, theirs = (
            (
                resolve_model_folder(c),
                library_arguments.model_load_args(c, self.place),
                library_arguments.quantization_args(c),
            )
            for c in (self.config, config)
        )
        return ours == theirs

    def config_for_model(self, name: str, prompt_of: str | None = None) -> Config:
        """The config whose prompt form and settings apply to model `name`; raises RequestError when there is none.

        The base has no form of its own: it is asked as `prompt_of`, else as the first run.
        """
        for wanted in (name, prompt_of or name):
            if wanted != BASE and wanted not in self._configs:
                message = f"The model '{wanted}' is not loaded."
                hint = f"Loaded: {', '.join((BASE, *self._configs))}. POST /v1/load with that run's id to add it."
                raise RequestError(message, hint, status=404, code="model_not_found", param="model")
        form = prompt_of or name
        return self._configs[form] if form != BASE else self.config

    def prompt(self, config: Config, messages: Sequence[RequestMessage]) -> tuple[str, list[int]]:
        """The exact prompt of a conversation and its ids: the same code as in training. Raises RequestError."""
        system, history, last = _split_messages(messages)
        if not chat_enabled(config, self.tokenizer) and (system or history):
            message = "This run was trained without a chat template: it knows one prompt and one answer, no turns."
            hint = "Send a single user message, or use /v1/completions."
            raise RequestError(message, hint, code="no_chat_template", param="messages")
        try:
            return encode_prompt(config, self.tokenizer, last, system=system, history=history)
        except Exception as error:  # a template may raise anything at roles it does not know
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            message = f"The model's chat template refuses these messages: {reason[0]}"
            raise RequestError(message, "Change the order or the roles.", param="messages") from error

    def encode_raw_text(self, config: Config, text: str) -> tuple[str, list[int]]:
        """`text` as it is: without a template, special tokens in it count as such."""
        if chat_enabled(config, self.tokenizer):  # templates write their own BOS
            return text, list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return encode_prompt(config, self.tokenizer, text)

    def answer(
        self, ask: stream_answer.GenerationRequest, emit: Callable[[TextPiece], None], cancelled: threading.Event
    ) -> stream_answer.GeneratedAnswer:
        """Takes turns with other answers. Raises RequestError."""
        if not ask.ids:
            raise RequestError("The prompt is empty.", "Write something.", param="prompt")
        if ask.model != BASE:
            self.attach(ask.model)
        with self.baton.held():
            self.adapters.select(ask.model)
            pause = EngineYieldPoint(self.baton, self.adapters, ask.model)
            return stream_answer.stream_answer(self.adapters.model, self.tokenizer, ask, emit, cancelled, pause)

    def score(
        self, name: str, config: Config, prompt: str, completion: str, alternatives: int,
        history: Sequence[RequestMessage] = (),
    ) -> list[TokenScore]:  # fmt: skip
        """What model `name` gives to `completion` after `prompt`, end token included: as training would count it.

        history: the turns before the prompt, for a run on conversations.
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
            message = f"Prompt and answer are longer than this model's context of {limit} tokens."
            raise RequestError(message, "Shorten the prompt.", code="context_length_exceeded", param="prompt")
        ids, labels = row["input_ids"][0].as_py(), row["labels"][0].as_py()
        learned_from = next(at for at, label in enumerate(labels) if label != labels_module.IGNORED_LABEL)
        if name != BASE:
            self.attach(name)
        with self.baton.held():
            self.adapters.select(name)
            return token_scores.score_given_tokens(
                self.adapters.model, self.tokenizer, ids, max(1, learned_from), alternatives
            )


class EngineYieldPoint(stream_answer.YieldPoint):
    """Passes the baton on; back with it, the answer's adapter and its random numbers are as they were."""

    def __init__(self, baton: FairLock, adapters: AdapterSwitch, name: str) -> None:
        self._baton, self._adapters, self._name = baton, adapters, name
        self.switch_seconds = 0.0

    def wanted(self) -> bool:
        return self._baton.wanted

    def take(self) -> None:
        state = torch.get_rng_state()
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._baton.yield_turn()
        begin = time.perf_counter()
        self._adapters.select(self._name)
        self.switch_seconds = time.perf_counter() - begin
        torch.set_rng_state(state)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def _verified_weights_folder(run: RunDir, wanted: AdapterReference) -> Path:
    """Where the weights lie, once their commit has been verified: a checkpoint's as strictly as before a resume."""
    if wanted.step is None:
        return _verified_adapter_folder(run)
    folder = wanted.folder(run)
    if not folder.is_dir():
        left = ", ".join(str(one.step) for one in list_checkpoint_references(run)) or "none"
        message = f"Run {run.id} keeps no checkpoint of step {wanted.step}."
        raise RequestError(message, f"The newest two and the best are kept: {left}.", status=404, code="no_checkpoint")
    return verify_checkpoint(folder, run.id).path


def _read_weights_of(config: Config, wanted: AdapterReference, folder: Path) -> tuple[AdapterFile, AdapterWeights]:
    if wanted.step is None:
        return read_adapter(folder)
    return adapter_from_training(config, read_adapter_weights(folder / training_state.CHECKPOINT_WEIGHTS_FILE))


def _verified_adapter_folder(run: RunDir) -> Path:
    if not run.adapter_dir.is_dir():
        raise EngineError(f"Run {run.id} has no adapter yet.", "Wait until it has finished, or choose another run.")
    verify_commit(run.adapter_dir, require_own_signature=False)
    return run.adapter_dir


def _conversation_to_score(history: Sequence[RequestMessage], prompt: str, completion: str) -> tuple[Message, ...]:
    """The conversation that ends with `completion`, which alone counts; none where nothing was said before."""
    if not history:
        return ()
    before = (Message(message.role, message.text) for message in history)
    return (*before, Message("user", prompt), Message("assistant", completion, learned=True))


def _split_messages(messages: Sequence[RequestMessage]) -> tuple[str | None, list[MessageDict], str]:
    """(system text, earlier turns, last user text)."""
    first = messages[0].role in ("system", "developer")
    system = messages[0].text if first else None
    turns = messages[1:] if first else messages
    if any(message.role in ("system", "developer") for message in turns):
        raise RequestError("A system message stands after the first place.", "Put it first.", param="messages")
    if not turns or turns[-1].role != "user":
        raise RequestError("The last message is not the user's.", "End with a user message.", param="messages")
    return system, [{"role": m.role, "content": m.text} for m in turns[:-1]], turns[-1].text

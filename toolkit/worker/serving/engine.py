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
from toolkit.data.conversations import Turn
from toolkit.data.examples.templates import Example
from toolkit.errors import EngineError
from toolkit.runs.checkpoints import verified
from toolkit.runs.model_names import BASE, Answerer, checkpoints_of, parse
from toolkit.runs.run_dir import RunDir, open_run, read_config
from toolkit.system.durable import COMMIT, verify_commit
from toolkit.worker.checkpoints import training_state
from toolkit.worker.models import library_arguments
from toolkit.worker.models import load as load_module
from toolkit.worker.models.adapter_files import AdapterFile, Weights, from_training, read_adapter, read_weights
from toolkit.worker.models.adapter_switch import Adapters
from toolkit.worker.models.folder import resolve
from toolkit.worker.serving import stream_answer, token_scores
from toolkit.worker.serving.pieces import Piece, TokenScore
from toolkit.worker.serving.request_models import Message, RequestError
from toolkit.worker.serving.turn_taking import Baton
from toolkit.worker.tokens import labels as labels_module
from toolkit.worker.tokens.encode import Message as MessageDict
from toolkit.worker.tokens.examples import chat_enabled, prompt_ids


class Engine:
    """Load with `Engine.load`; then `answer`. `runs`: the names (`answerers.py`) of what is attached, in that order."""

    def __init__(self, save_dir: Path, config: Config, adapters: Adapters, tokenizer: PreTrainedTokenizerBase) -> None:
        self.save_dir, self.config, self.adapters, self.tokenizer = save_dir, config, adapters, tokenizer
        self.place = load_module.place(config)
        self.baton = Baton()
        self._configs: dict[str, Config] = {}
        self._commits: dict[str, bytes] = {}  # of the adapters as they were attached

    @classmethod
    def load(cls, save_dir: Path, run_id: str, phase: Callable[[str], None]) -> Engine:
        """The base model of a run, with the run's adapter. Raises ToolkitError."""
        load_module.quiet_libraries()
        config = read_config(open_run(save_dir, run_id))
        _adapter_of(open_run(save_dir, run_id))  # a missing adapter is found before the base has loaded
        phase("loading tokenizer")
        folder = resolve(config)
        tokenizer = load_module.load_tokenizer(config, folder)
        phase("loading model")
        base = load_module.load_base(config, folder=folder).eval()
        engine = cls(save_dir, config, Adapters(base), tokenizer)
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
        wanted = parse(name)
        run = open_run(self.save_dir, wanted.run)
        config = read_config(run)
        if not self.shares_base(config):
            message = f"Run {run.id} was trained on another base model than the loaded one ({self.base_name})."
            raise RequestError(message, "Stop the engine and start it for that run.", status=409, code="other_base")
        with self.baton.held():
            if self._is_new(name):  # nobody else was quicker
                folder = _whole(run, wanted)
                commit = (folder / COMMIT).read_bytes()
                self.adapters.attach(name, *_weights(config, wanted, folder))
                self._configs[name], self._commits[name] = config, commit

    def _is_new(self, name: str) -> bool:
        """Whether other weights than the attached ones lie in the run's folder. What is gone stays attached."""
        if name not in self._commits:
            return True
        wanted = parse(name)
        try:
            found = (wanted.folder(RunDir(self.save_dir / "runs" / wanted.run)) / COMMIT).read_bytes()
        except FileNotFoundError:
            return False
        return found != self._commits[name]

    def shares_base(self, config: Config) -> bool:
        """Whether a run's base is this one, loaded the same way."""
        ours, theirs = (
            (resolve(c), library_arguments.load_args(c, self.place), library_arguments.quantization_args(c))
            for c in (self.config, config)
        )
        return ours == theirs

    def form_of(self, name: str, prompt_of: str | None = None) -> Config:
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

    def prompt(self, config: Config, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """The exact prompt of a conversation and its ids: the same code as in training. Raises RequestError."""
        system, history, last = _split(messages)
        if not chat_enabled(config, self.tokenizer) and (system or history):
            message = "This run was trained without a chat template: it knows one prompt and one answer, no turns."
            hint = "Send a single user message, or use /v1/completions."
            raise RequestError(message, hint, code="no_chat_template", param="messages")
        try:
            return prompt_ids(config, self.tokenizer, last, system=system, history=history)
        except Exception as error:  # a template may raise anything at roles it does not know
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            message = f"The model's chat template refuses these messages: {reason[0]}"
            raise RequestError(message, "Change the order or the roles.", param="messages") from error

    def raw(self, config: Config, text: str) -> tuple[str, list[int]]:
        """`text` as it is: without a template, special tokens in it count as such."""
        if chat_enabled(config, self.tokenizer):  # templates write their own BOS
            return text, list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return prompt_ids(config, self.tokenizer, text)

    def answer(
        self, ask: stream_answer.Ask, emit: Callable[[Piece], None], cancelled: threading.Event
    ) -> stream_answer.Answer:
        """Takes turns with other answers. Raises RequestError."""
        if not ask.ids:
            raise RequestError("The prompt is empty.", "Write something.", param="prompt")
        if ask.model != BASE:
            self.attach(ask.model)
        with self.baton.held():
            self.adapters.select(ask.model)
            pause = TakeTurns(self.baton, self.adapters, ask.model)
            return stream_answer.answer(self.adapters.model, self.tokenizer, ask, emit, cancelled, pause)

    def score(
        self, name: str, config: Config, prompt: str, completion: str, alternatives: int,
        history: Sequence[Message] = (),
    ) -> list[TokenScore]:  # fmt: skip
        """What model `name` gives to `completion` after `prompt`, end token included: as training would count it.

        history: the turns before the prompt, for a run on conversations.
        """
        chat, limit = (
            chat_enabled(config, self.tokenizer),
            stream_answer.context_length(self.adapters.model),
        )
        row = labels_module.prepare(
            [Example(prompt, completion, _turns(history, prompt, completion))], self.tokenizer, limit or 1_048_576, chat
        ).table
        if not row.num_rows:
            message = f"Prompt and answer are longer than this model's context of {limit} tokens."
            raise RequestError(message, "Shorten the prompt.", code="context_length_exceeded", param="prompt")
        ids, labels = row["input_ids"][0].as_py(), row["labels"][0].as_py()
        learned_from = next(at for at, label in enumerate(labels) if label != labels_module.IGNORED)
        if name != BASE:
            self.attach(name)
        with self.baton.held():
            self.adapters.select(name)
            return token_scores.given(self.adapters.model, self.tokenizer, ids, max(1, learned_from), alternatives)


class TakeTurns(stream_answer.Pause):
    """Passes the baton on; back with it, the answer's adapter and its random numbers are as they were."""

    def __init__(self, baton: Baton, adapters: Adapters, name: str) -> None:
        self._baton, self._adapters, self._name = baton, adapters, name
        self.switch_seconds = 0.0

    def wanted(self) -> bool:
        return self._baton.wanted

    def take(self) -> None:
        state = torch.get_rng_state()
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._baton.pass_on()
        begin = time.perf_counter()
        self._adapters.select(self._name)
        self.switch_seconds = time.perf_counter() - begin
        torch.set_rng_state(state)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def _whole(run: RunDir, wanted: Answerer) -> Path:
    """Where the weights lie, once their commit has been verified: a checkpoint's as strictly as before a resume."""
    if wanted.step is None:
        return _adapter_of(run)
    folder = wanted.folder(run)
    if not folder.is_dir():
        left = ", ".join(str(one.step) for one in checkpoints_of(run)) or "none"
        message = f"Run {run.id} keeps no checkpoint of step {wanted.step}."
        raise RequestError(message, f"The newest two and the best are kept: {left}.", status=404, code="no_checkpoint")
    return verified(folder, run.id).path


def _weights(config: Config, wanted: Answerer, folder: Path) -> tuple[AdapterFile, Weights]:
    if wanted.step is None:
        return read_adapter(folder)
    return from_training(config, read_weights(folder / training_state.WEIGHTS))


def _adapter_of(run: RunDir) -> Path:
    if not run.adapter_dir.is_dir():
        raise EngineError(f"Run {run.id} has no adapter yet.", "Wait until it has finished, or choose another run.")
    verify_commit(run.adapter_dir, own=False)
    return run.adapter_dir


def _turns(history: Sequence[Message], prompt: str, completion: str) -> tuple[Turn, ...]:
    """The conversation that ends with `completion`, which alone counts; none where nothing was said before."""
    if not history:
        return ()
    before = (Turn(message.role, message.text) for message in history)
    return (*before, Turn("user", prompt), Turn("assistant", completion, learned=True))


def _split(messages: Sequence[Message]) -> tuple[str | None, list[MessageDict], str]:
    """(system text, earlier turns, last user text)."""
    first = messages[0].role in ("system", "developer")
    system = messages[0].text if first else None
    turns = messages[1:] if first else messages
    if any(message.role in ("system", "developer") for message in turns):
        raise RequestError("A system message stands after the first place.", "Put it first.", param="messages")
    if not turns or turns[-1].role != "user":
        raise RequestError("The last message is not the user's.", "End with a user message.", param="messages")
    return system, [{"role": m.role, "content": m.text} for m in turns[:-1]], turns[-1].text

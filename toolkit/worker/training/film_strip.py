"""The film strip: a few pinned prompts, answered greedily before training and at every evaluation.

Kept in the run's film.jsonl, in the form of its events: one `pinned` line an attempt with what is asked, one `answers`
line a step. Training must not notice: no random number is drawn, the model is left in the mode in which it was, and
what goes wrong here is a warning. Knows no loss and no checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.config import Config
from toolkit.runs.event_facts import PinnedPrompt
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir
from toolkit.worker.answering.greedy import ANSWER_SLACK_TOKENS, generate_greedy_texts
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.tokens.examples import encode_example_prompt
from toolkit.worker.tokens.prepared_rows import RowSource

MAX_PROMPTS_PER_SAMPLING = 10
MAX_PINNED_ANSWER_TOKENS = 128
PINNED_SEARCH_ROWS = 100_000
logger = logging.getLogger(__name__)


def choose_pinned_prompts(config: Config, source: RowSource) -> list[PinnedPrompt]:
    """The pinned prompts, then test rows, at most MOST in all."""
    asked = [prompt for prompt in dict.fromkeys(config.training.pinned_prompts or []) if prompt.strip()]
    rows = source.plan.test[: config.training.pinned_rows]
    from_rows = [
        PinnedPrompt(example.prompt, example.completion, int(row), example.turns)
        for row, example in zip(rows, source.examples(rows), strict=True)
    ]
    typed = _add_expected_answers([PinnedPrompt(prompt) for prompt in asked], source) if asked else []
    return list({pin.prompt: pin for pin in (*typed, *from_rows)}.values())[:MAX_PROMPTS_PER_SAMPLING]


def _add_expected_answers(pins: list[PinnedPrompt], source: RowSource) -> list[PinnedPrompt]:
    """The same pins; one that is a row's own prompt gets the completion of that row."""
    wanted = {pin.prompt: pin for pin in pins}
    for rows in (source.plan.test, source.plan.train):
        searched = rows[:PINNED_SEARCH_ROWS]
        for row, example in zip(searched, source.examples(searched), strict=True):
            pin = wanted.get(example.prompt)
            if pin is not None and pin.expected is None:
                wanted[pin.prompt] = replace(pin, expected=example.completion, row=int(row), turns=example.turns)
    return list(wanted.values())


class SampleOutputsCallback(TrainerCallback):
    """Answers the pins and writes them down. One process a run has one; its file has no other writer."""

    def __init__(
        self,
        run: RunDir,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        pins: Sequence[PinnedPrompt],
        tell: Callable[..., None],
        stop: StopSignal,
        attempt: int,
        positions: int | None = None,
    ) -> None:
        self._run, self._tokenizer, self._tell, self._stop = run, tokenizer, tell, stop
        self._attempt = attempt
        self._film: EventWriter | None = None
        asked = [(pin, encode_example_prompt(config, tokenizer, pin.prompt, pin.turns)[1]) for pin in pins]
        fits = [(pin, ids) for pin, ids in asked if positions is None or len(ids) + ANSWER_SLACK_TOKENS <= positions]
        if len(fits) < len(asked):
            tell("warning", message=f"{len(asked) - len(fits)} pinned prompts are longer than the model's context.")
        self.pins = [pin for pin, _ in fits]
        self._ids = [ids for _, ids in fits]
        self._length = self._new_tokens(config, positions)

    def _new_tokens(self, config: Config, positions: int | None) -> int:
        """As long as the longest expected answer; the config's own limit where nothing is expected."""
        limit = min(config.inference.max_new_tokens or MAX_PINNED_ANSWER_TOKENS, MAX_PINNED_ANSWER_TOKENS)
        known = [self._tokenizer(pin.expected, add_special_tokens=False)["input_ids"] for pin in self.pins
                 if pin.expected is not None]  # fmt: skip
        wanted = limit if len(known) < len(self.pins) else max(map(len, known), default=0) + ANSWER_SLACK_TOKENS
        room = MAX_PINNED_ANSWER_TOKENS if positions is None else positions - max(map(len, self._ids), default=0)
        return max(1, min(wanted, limit, room))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if not self.pins:
            return
        self._film = EventWriter(self._run.film_path, self._attempt)
        self._film.append("pinned", pins=[pin.event_fields() for pin in self.pins])
        if not state.global_step:  # the adapter has learned nothing yet: these are the base model's answers
            self._tell("phase", phase="answering pinned prompts")
            self.record_sample_outputs(model, 0)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if self.pins:
            self.record_sample_outputs(model, state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._film is not None:
            self._film.close()
            self._film = None

    def record_sample_outputs(self, model: Any, step: int) -> None:
        """One frame. A stop leaves it out: the trainer hears of it by itself."""
        try:
            texts = self._answer(getattr(model, "module", model))
            if self._film is not None:
                self._film.append("answers", step=step, texts=texts)
        except StopRequested:
            return
        except Exception as error:
            logger.exception("answering pinned prompts")
            self.pins = []
            message = f"The pinned prompts are not answered any more ({type(error).__name__}: {_first_line(error)})."
            self._tell("warning", message=message)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _answer(self, model: Any) -> list[str]:
        training = model.training
        devices = [model.device] if model.device.type == "cuda" else []
        model.eval()
        try:
            with torch.random.fork_rng(devices):
                return generate_greedy_texts(model, self._tokenizer, self._ids, self._length, self._stop)
        finally:
            model.train(training)


def _first_line(error: Exception) -> str:
    return next(islice(_lines(str(error)), 1), "")[:200]


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())

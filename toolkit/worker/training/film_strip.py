"""Sample outputs during training: answer a few pinned prompts greedily before training and at every evaluation.

The answers are written to the run's film.jsonl in the form of events: one `pinned` line for each attempt with the
prompts, one `answers` line for each evaluation. Training is not affected: no random number is drawn, the model's mode
is restored, and an error is only a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.config import Config
from toolkit.runs.event_facts import PinnedPrompt
from toolkit.runs.events import EventReporter, EventWriter
from toolkit.runs.run_dir import RunDir
from toolkit.system.printable import format_plural
from toolkit.worker.answering.greedy import ANSWER_SLACK_TOKENS, generate_greedy_texts
from toolkit.worker.process.stop import StopRequested, StopSignal
from toolkit.worker.tokens.examples import encode_example_prompt
from toolkit.worker.tokens.prepared_rows import RowSource

MAX_PROMPTS_PER_SAMPLING = 10
"""Prompts answered at each evaluation: training waits for all of them."""
MAX_PINNED_ANSWER_TOKENS = 128
"""Longest answer, in tokens: enough to see the style of an answer without a long pause."""
PINNED_SEARCH_ROWS = 100_000
"""Rows of each split that are searched for the expected answer of a typed prompt: training waits for this, too."""
logger = logging.getLogger(__name__)


def choose_pinned_prompts(config: Config, source: RowSource) -> list[PinnedPrompt]:
    """Return the typed prompts, then those of test rows: MAX_PROMPTS_PER_SAMPLING at most, each once."""
    asked = [prompt for prompt in dict.fromkeys(config.training.pinned_prompts or []) if prompt.strip()]
    rows = source.plan.test[: config.training.pinned_rows]
    from_rows = [
        PinnedPrompt(example.prompt, example.completion, int(row), example.turns)
        for row, example in zip(rows, source.examples(rows), strict=True)
    ]
    typed = _add_expected_answers([PinnedPrompt(prompt) for prompt in asked], source) if asked else []
    return list({pin.prompt: pin for pin in (*typed, *from_rows)}.values())[:MAX_PROMPTS_PER_SAMPLING]


def _add_expected_answers(pins: list[PinnedPrompt], source: RowSource) -> list[PinnedPrompt]:
    """Return the pins, each with the completion of the first row that has the same prompt."""
    wanted = {pin.prompt: pin for pin in pins}
    for rows in (source.plan.test, source.plan.train):  # a test row first: the model has not seen its answer
        searched = rows[:PINNED_SEARCH_ROWS]
        for row, example in zip(searched, source.examples(searched), strict=True):
            pin = wanted.get(example.prompt)
            if pin is not None and pin.expected is None:
                wanted[pin.prompt] = replace(pin, expected=example.completion, row=int(row), turns=example.turns)
    return list(wanted.values())


class SampleOutputsCallback(TrainerCallback):
    """Answer the pinned prompts and write the answers to film.jsonl.

    Only the main process of a run has one: the file must have a single writer. positions: the model's context length
    in tokens, None if it is not known.
    """

    def __init__(
        self,
        run: RunDir,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        pins: Sequence[PinnedPrompt],
        emit: EventReporter,
        stop: StopSignal,
        attempt: int,
        positions: int | None = None,
    ) -> None:
        self._run, self._tokenizer, self._emit, self._stop = run, tokenizer, emit, stop
        self._attempt = attempt
        self._film: EventWriter | None = None
        asked = [(pin, encode_example_prompt(config, tokenizer, pin.prompt, pin.turns)[1]) for pin in pins]
        fits = [(pin, ids) for pin, ids in asked if positions is None or len(ids) + ANSWER_SLACK_TOKENS <= positions]
        if len(fits) < len(asked):
            skipped = f"Skipped {len(asked) - len(fits)} of {format_plural(len(asked), 'pinned prompt')}"
            emit("warning", message=f"{skipped}: longer than the model's context.")
        self.pins = [pin for pin, _ in fits]
        self._ids = [ids for _, ids in fits]
        self._max_answer_tokens = self._choose_answer_length(config, positions)

    def _choose_answer_length(self, config: Config, positions: int | None) -> int:
        """Return the tokens to generate: those of the longest expected answer, or the limit if one is not known."""
        limit = min(config.inference.max_new_tokens or MAX_PINNED_ANSWER_TOKENS, MAX_PINNED_ANSWER_TOKENS)
        expected = [pin.expected for pin in self.pins if pin.expected is not None]
        lengths = [len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in expected]
        wanted = limit if len(lengths) < len(self.pins) else max(lengths, default=0) + ANSWER_SLACK_TOKENS
        room = MAX_PINNED_ANSWER_TOKENS if positions is None else positions - max(map(len, self._ids), default=0)
        return max(1, min(wanted, limit, room))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if not self.pins:
            return
        self._film = EventWriter(self._run.film_path, self._attempt)
        self._film.append("pinned", pins=[pin.event_fields() for pin in self.pins])
        # at step 0 the adapter changes nothing: these are the base model's answers
        if not state.global_step:
            self._emit("phase", phase="answering pinned prompts")
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
        """Answer the prompts and write them as those of `step`. A stop skips them; the trainer handles it."""
        try:
            texts = self._answer(getattr(model, "module", model))
            if self._film is not None:
                self._film.append("answers", step=step, texts=texts)
        except StopRequested:
            return
        except Exception as error:
            logger.exception("answering pinned prompts")
            self.pins = []  # what failed once would fail at every evaluation
            message = f"Sample outputs are turned off for this run ({type(error).__name__}: {_first_line(error)})."
            self._emit("warning", message=message, unanswered=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # after an out-of-memory error, training needs what generation reserved

    def _answer(self, model: Any) -> list[str]:
        training = model.training
        devices = [model.device] if model.device.type == "cuda" else []
        model.eval()
        try:
            # a run with sample outputs must train bit for bit like one without
            with torch.random.fork_rng(devices):
                return generate_greedy_texts(model, self._tokenizer, self._ids, self._max_answer_tokens, self._stop)
        finally:
            model.train(training)


def _first_line(error: Exception) -> str:
    return next(islice(_lines(str(error)), 1), "")[:200]


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())

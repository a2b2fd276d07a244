"""The parts of a run's time beside its training steps: starting, testing on the way, and the answers at its end. Pure.

In a short run they are half of it. What takes time in them is writing: one token after another, by base and adapter.
The constants are those of a core of these years; `history.py` corrects them by this machine's runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.config import Config
from toolkit.forecast.costs.adapter_size import Adapter
from toolkit.forecast.costs.memory import Load, weight_bytes
from toolkit.forecast.costs.model_shape import Shape
from toolkit.forecast.costs.sampled_lengths import Lengths
from toolkit.forecast.costs.step_time import Rates

COLD_SECONDS, READY_SECONDS = 6.5, 0.4
"""Until the libraries are there: in a process that imports them, and in a fork of the one that has."""
TOKENIZED, LOADED = 400_000, 1.5e9
"""Tokens prepared, and bytes of weights read, each second."""
EVALUATIONS, EVALUATION_SECONDS = 10, 0.08
"""How many where the user named no interval, and what each takes however few the rows."""
WRITTEN_SECONDS, WRITTEN_LAYER, WRITTEN_PAIR = 0.002, 0.0005, 0.00006
"""Of one written token: calls from Python at all, for each layer, and for each adapter's pair."""
UNPACKED_BYTES = 12.0
PINS, GOLDEN, GOLDEN_TOKENS = 10, 8, 64
"""Prompts of the film strip and of the contract (worker/training/film_strip.py, worker/answering/golden_prompts.py)."""
ASKED_ROWS, ASKED_AT_ONCE, SLACK, MOST_ASKING = 200, 32, 16, 300.0
"""Test rows that are answered at the end (worker/answering/greedy.py)."""
LONGEST_FILM = 128
SAVING = 0.3


@dataclass(frozen=True)
class Times:
    """Seconds of a run. starting: until its first step; evaluating: all test losses and film strips; ending: saving,
    the golden prompts and the answers to test rows."""

    starting: float
    training: float
    evaluating: float
    ending: float

    @property
    def total(self) -> float:
        return self.starting + self.training + self.evaluating + self.ending


@dataclass(frozen=True)
class Writer:
    """Who writes answers: the model's shape with its adapter, on a device of these rates."""

    shape: Shape
    adapter: Adapter
    load: Load
    rates: Rates

    def seconds(self, rows: int, tokens: float, *, base: bool = False) -> float:
        """Of `rows` answers of `tokens` tokens, written side by side."""
        calls = WRITTEN_SECONDS + WRITTEN_LAYER * self.shape.layers
        calls += 0.0 if base else WRITTEN_PAIR * self.adapter.pairs
        every = self.shape.used_parameters + self.shape.embedding
        work = 2 * every * rows / self.rates.flops[self.load.precision]
        if self.load.quantized and not self.load.gpu:  # every weight is written out in full for each token
            work += UNPACKED_BYTES * self.shape.linear_parameters / self.rates.bytes
        return tokens * (calls * self.rates.eager + max(work, weight_bytes(self.shape, self.load) / self.rates.bytes))


def starting(lengths: Lengths, writer: Writer, *, ready: bool) -> float:
    """Seconds until the first step. ready: whether a process waits that has imported the libraries."""
    rows = lengths.train + lengths.test
    tokens = rows * float(lengths.tokens.mean()) if len(lengths.tokens) else 0.0
    read = writer.shape.parameters * writer.load.file_bytes / LOADED
    return (READY_SECONDS if ready else COLD_SECONDS) + tokens / TOKENIZED + read


def evaluations(config: Config, steps: int) -> int:
    """How often the test loss is computed; at the last step always."""
    every = config.training.training_args.eval_steps
    return min(EVALUATIONS, steps) if every is None else math.ceil(steps / every)


def evaluating(config: Config, lengths: Lengths, writer: Writer, steps: int, row_seconds: float) -> float:
    """Seconds of all evaluations. row_seconds: of training on one row, three times what a forward takes."""
    if not lengths.test:
        return 0.0
    times = evaluations(config, steps)
    pins = min(PINS, (config.training.pinned_rows or 0) + len(config.training.pinned_prompts or []))
    frame = writer.seconds(pins, min(_answer(lengths) + SLACK, _allowed(config, LONGEST_FILM))) if pins else 0.0
    return times * (EVALUATION_SECONDS + lengths.test * row_seconds / 3) + (times + 1) * frame


def ending(config: Config, lengths: Lengths, writer: Writer) -> float:
    """Seconds from the last evaluation to the end: saving, golden prompts, and answers to test rows by both models."""
    golden = GOLDEN * writer.seconds(1, min(_typical(lengths), _allowed(config, GOLDEN_TOKENS)))
    rows = min(lengths.test, ASKED_ROWS)
    batches, at_once = math.ceil(rows / ASKED_AT_ONCE), min(rows, ASKED_AT_ONCE)
    tokens = _answer(lengths) + SLACK
    each = writer.seconds(at_once, tokens) + writer.seconds(at_once, tokens, base=True)
    return SAVING + golden + min(batches * each, MOST_ASKING)


def _allowed(config: Config, most: int) -> int:
    return min(config.inference.max_new_tokens or most, most)


def _answer(lengths: Lengths) -> float:
    """Tokens of the longest answer among a few rows."""
    return float(sorted(lengths.trained)[int(0.95 * (len(lengths.trained) - 1))]) if len(lengths.trained) else 0.0


def _typical(lengths: Lengths) -> float:
    return float(lengths.trained.mean()) if len(lengths.trained) else 0.0

"""The parts of a run's time beside its training steps: starting, testing on the way, and the answers at its end. Pure.

In a short run they are half of it. What takes time in them is writing: one token after another, by base and adapter.
The constants are those of a core of these years; `history.py` corrects them by this machine's runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.config import Config
from toolkit.forecast.costs.adapter_size import AdapterSize
from toolkit.forecast.costs.memory import BatchWorkload, weight_bytes
from toolkit.forecast.costs.model_shape import ModelShape
from toolkit.forecast.costs.sampled_lengths import SampledLengths
from toolkit.forecast.costs.step_time import DeviceRates

COLD_SECONDS, READY_SECONDS = 6.5, 0.4
"""Until the libraries are there: in a process that imports them, and in a fork of the one that has."""
TOKENIZED_PER_SECOND, LOADED_BYTES_PER_SECOND = 400_000, 1.5e9
"""Tokens prepared, and bytes of weights read, each second."""
DEFAULT_EVALUATIONS, EVALUATION_SECONDS = 10, 0.08
"""How many where the user named no interval, and what each takes however few the rows."""
TOKEN_BASE_SECONDS, TOKEN_LAYER_SECONDS, TOKEN_LORA_PAIR_SECONDS = 0.002, 0.0005, 0.00006
"""Of one written token: calls from Python at all, for each layer, and for each adapter's pair."""
DEQUANTIZED_WEIGHT_BYTES = 12.0
MAX_SAMPLED_PROMPTS, GOLDEN_PROMPT_COUNT, GOLDEN_ANSWER_TOKENS = 10, 8, 64
"""Prompts of the film strip and of the contract (worker/training/film_strip.py, worker/answering/golden_prompts.py)."""
MAX_ANSWERED_ROWS, ANSWER_BATCH_ROWS, FORECAST_EXTRA_TOKENS, MAX_ANSWERING_SECONDS = 200, 32, 16, 300.0
"""Test rows that are answered at the end (worker/answering/greedy.py)."""
MAX_SAMPLE_OUTPUT_TOKENS = 128
ADAPTER_SAVE_SECONDS = 0.3


@dataclass(frozen=True)
class PhaseSeconds:
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
class GenerationSpeed:
    """Who writes answers: the model's shape with its adapter, on a device of these rates."""

    shape: ModelShape
    adapter: AdapterSize
    load: BatchWorkload
    rates: DeviceRates

    def seconds(self, rows: int, tokens: float, *, base: bool = False) -> float:
        """Of `rows` answers of `tokens` tokens, written side by side."""
        calls = TOKEN_BASE_SECONDS + TOKEN_LAYER_SECONDS * self.shape.layers
        calls += 0.0 if base else TOKEN_LORA_PAIR_SECONDS * self.adapter.pairs
        every = self.shape.active_parameters + self.shape.embedding
        work = 2 * every * rows / self.rates.flops[self.load.precision]
        if self.load.quantized and not self.load.gpu:  # every weight is written out in full for each token
            work += DEQUANTIZED_WEIGHT_BYTES * self.shape.linear_parameters / self.rates.bytes
        return tokens * (calls * self.rates.eager + max(work, weight_bytes(self.shape, self.load) / self.rates.bytes))


def startup_seconds(lengths: SampledLengths, writer: GenerationSpeed, *, ready: bool) -> float:
    """Seconds until the first step. ready: whether a process waits that has imported the libraries."""
    rows = lengths.train + lengths.test
    tokens = rows * float(lengths.tokens.mean()) if len(lengths.tokens) else 0.0
    read = writer.shape.parameters * writer.load.file_bytes / LOADED_BYTES_PER_SECOND
    return (READY_SECONDS if ready else COLD_SECONDS) + tokens / TOKENIZED_PER_SECOND + read


def count_evaluations(config: Config, steps: int) -> int:
    """How often the test loss is computed; at the last step always."""
    every = config.training.training_args.eval_steps
    return min(DEFAULT_EVALUATIONS, steps) if every is None else math.ceil(steps / every)


def evaluation_seconds(
    config: Config, lengths: SampledLengths, writer: GenerationSpeed, steps: int, row_seconds: float
) -> float:
    """Seconds of all evaluations. row_seconds: of training on one row, three times what a forward takes."""
    if not lengths.test:
        return 0.0
    times = count_evaluations(config, steps)
    pins = min(MAX_SAMPLED_PROMPTS, (config.training.pinned_rows or 0) + len(config.training.pinned_prompts or []))
    frame = (
        writer.seconds(
            pins,
            min(
                _long_answer_tokens(lengths) + FORECAST_EXTRA_TOKENS, _max_new_tokens(config, MAX_SAMPLE_OUTPUT_TOKENS)
            ),
        )
        if pins
        else 0.0
    )
    return times * (EVALUATION_SECONDS + lengths.test * row_seconds / 3) + (times + 1) * frame


def final_phase_seconds(config: Config, lengths: SampledLengths, writer: GenerationSpeed) -> float:
    """Seconds from the last evaluation to the end: saving, golden prompts, and answers to test rows by both models."""
    golden = GOLDEN_PROMPT_COUNT * writer.seconds(
        1, min(_mean_answer_tokens(lengths), _max_new_tokens(config, GOLDEN_ANSWER_TOKENS))
    )
    rows = min(lengths.test, MAX_ANSWERED_ROWS)
    batches, at_once = math.ceil(rows / ANSWER_BATCH_ROWS), min(rows, ANSWER_BATCH_ROWS)
    tokens = _long_answer_tokens(lengths) + FORECAST_EXTRA_TOKENS
    each = writer.seconds(at_once, tokens) + writer.seconds(at_once, tokens, base=True)
    return ADAPTER_SAVE_SECONDS + golden + min(batches * each, MAX_ANSWERING_SECONDS)


def _max_new_tokens(config: Config, most: int) -> int:
    return min(config.inference.max_new_tokens or most, most)


def _long_answer_tokens(lengths: SampledLengths) -> float:
    """Tokens of the longest answer among a few rows."""
    return float(sorted(lengths.trained)[int(0.95 * (len(lengths.trained) - 1))]) if len(lengths.trained) else 0.0


def _mean_answer_tokens(lengths: SampledLengths) -> float:
    return float(lengths.trained.mean()) if len(lengths.trained) else 0.0

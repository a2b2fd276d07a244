"""The time of a run outside its training steps: start, evaluations and final phase.

In a short run this is half of the time, most of it for generating answers token by token. The constants were measured
on a server core of 2025; `history.py` corrects them with this machine's runs.
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
"""Until the libraries are imported: in a new process, and in a fork of the standby worker."""
TOKENIZED_PER_SECOND, LOADED_BYTES_PER_SECOND = 400_000, 1.5e9
"""Tokens that are prepared, and bytes of weights that are read, per second."""
DEFAULT_EVALUATIONS, EVALUATION_SECONDS = 10, 0.08
"""Evaluations of a run without an interval, and the seconds of each that do not depend on the rows."""
TOKEN_BASE_SECONDS, TOKEN_LAYER_SECONDS, TOKEN_LORA_PAIR_SECONDS = 0.002, 0.0005, 0.00006
"""Of one generated token: Python calls at all, for each layer, and for each pair of the adapter."""
DEQUANTIZED_WEIGHT_BYTES = 12.0
"""Bytes moved for each quantized weight that is expanded on a CPU."""
MAX_SAMPLED_PROMPTS, GOLDEN_PROMPT_COUNT, GOLDEN_ANSWER_TOKENS = 10, 8, 64
"""Prompts of the sample outputs and golden prompts, and tokens of a golden answer (worker/training/film_strip.py,
worker/answering/golden_prompts.py)."""
MAX_ANSWERED_ROWS, ANSWER_BATCH_ROWS, FORECAST_EXTRA_TOKENS, MAX_ANSWERING_SECONDS = 200, 32, 16, 300.0
"""Answers to test rows at the end (worker/answering/greedy.py): rows, rows per batch, tokens beyond the expected
answer, and seconds after which the worker stops. Copies of the worker's constants, which cannot be imported without
torch."""
MAX_SAMPLE_OUTPUT_TOKENS = 128
ADAPTER_SAVE_SECONDS = 0.3
FORWARD_SHARE = 1 / 3
"""A forward pass takes a third of a training step; the backward pass takes twice as long."""


@dataclass(frozen=True)
class PhaseSeconds:
    """Seconds of a run. starting: until the first step. evaluating: all test losses and sample outputs. ending: saving,
    the golden prompts, and the answers to test rows."""

    starting: float
    training: float
    evaluating: float
    ending: float

    @property
    def total(self) -> float:
        """The whole run."""
        return self.starting + self.training + self.evaluating + self.ending


@dataclass(frozen=True)
class GenerationSpeed:
    """Speed of generating answers with a model and its adapter on a device."""

    shape: ModelShape
    adapter: AdapterSize
    load: BatchWorkload
    rates: DeviceRates

    def generation_seconds(self, rows: int, tokens: float, *, base: bool = False) -> float:
        """Return the seconds for `rows` answers of `tokens` tokens in one batch. base: without the adapter."""
        calls = TOKEN_BASE_SECONDS + TOKEN_LAYER_SECONDS * self.shape.layers
        calls += 0.0 if base else TOKEN_LORA_PAIR_SECONDS * self.adapter.pairs
        used_parameters = self.shape.active_parameters + self.shape.embedding
        work = 2 * used_parameters * rows / self.rates.flops[self.load.precision]
        if self.load.quantized and not self.load.gpu:  # all weights are expanded again for each token
            work += DEQUANTIZED_WEIGHT_BYTES * self.shape.linear_parameters / self.rates.bytes
        return tokens * (calls * self.rates.eager + max(work, weight_bytes(self.shape, self.load) / self.rates.bytes))


def startup_seconds(lengths: SampledLengths, generation: GenerationSpeed, *, ready: bool) -> float:
    """Return the seconds until the first step. ready: whether a standby worker has imported the libraries."""
    rows = lengths.train + lengths.test
    tokens = rows * float(lengths.tokens.mean()) if len(lengths.tokens) else 0.0
    read = generation.shape.parameters * generation.load.file_bytes / LOADED_BYTES_PER_SECOND
    return (READY_SECONDS if ready else COLD_SECONDS) + tokens / TOKENIZED_PER_SECOND + read


def count_evaluations(config: Config, steps: int) -> int:
    """Return the number of evaluations; the last step is always evaluated."""
    every = config.training.training_args.eval_steps
    return min(DEFAULT_EVALUATIONS, steps) if every is None else math.ceil(steps / every)


def evaluation_seconds(
    config: Config, lengths: SampledLengths, generation: GenerationSpeed, steps: int, row_seconds: float
) -> float:
    """Return the seconds of all evaluations. row_seconds: of training on one row."""
    if not lengths.test:
        return 0.0
    number = count_evaluations(config, steps)
    prompts = min(MAX_SAMPLED_PROMPTS, (config.training.pinned_rows or 0) + len(config.training.pinned_prompts or []))
    samples = 0.0
    if prompts:
        limit = _max_new_tokens(config, MAX_SAMPLE_OUTPUT_TOKENS)
        tokens = min(_long_answer_tokens(lengths) + FORECAST_EXTRA_TOKENS, limit)
        samples = generation.generation_seconds(prompts, tokens)
    # sample outputs are also generated once before the first step
    test_loss = EVALUATION_SECONDS + lengths.test * row_seconds * FORWARD_SHARE
    return number * test_loss + (number + 1) * samples


def final_phase_seconds(config: Config, lengths: SampledLengths, generation: GenerationSpeed) -> float:
    """Return the seconds after the last evaluation: saving, golden prompts, and both models' answers to test rows."""
    golden_tokens = min(_mean_answer_tokens(lengths), _max_new_tokens(config, GOLDEN_ANSWER_TOKENS))
    golden = GOLDEN_PROMPT_COUNT * generation.generation_seconds(1, golden_tokens)
    rows = min(lengths.test, MAX_ANSWERED_ROWS)
    batches, at_once = math.ceil(rows / ANSWER_BATCH_ROWS), min(rows, ANSWER_BATCH_ROWS)
    tokens = _long_answer_tokens(lengths) + FORECAST_EXTRA_TOKENS
    adapter_seconds = generation.generation_seconds(at_once, tokens)
    base_seconds = generation.generation_seconds(at_once, tokens, base=True)
    answering = min(batches * (adapter_seconds + base_seconds), MAX_ANSWERING_SECONDS)
    return ADAPTER_SAVE_SECONDS + golden + answering


def _max_new_tokens(config: Config, limit: int) -> int:
    return min(config.inference.max_new_tokens or limit, limit)


def _long_answer_tokens(lengths: SampledLengths) -> float:
    """Return the 95th percentile of the answers: a batch is generated until its longest answer ends."""
    return float(sorted(lengths.trained)[int(0.95 * (len(lengths.trained) - 1))]) if len(lengths.trained) else 0.0


def _mean_answer_tokens(lengths: SampledLengths) -> float:
    return float(lengths.trained.mean()) if len(lengths.trained) else 0.0

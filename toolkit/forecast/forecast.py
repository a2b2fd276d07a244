"""What a run will take before it starts: parameters, memory, steps, time and disk. Pure; the parts are its neighbours'.

Predicted from the settings, the model's shape and the real lengths of the rows; corrected by what this machine's
earlier runs took (`history.py`), or replaced by what a probe of two real steps took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from toolkit.choices import Place, max_length, packs, precision
from toolkit.config import Config
from toolkit.data.batches import Numbers, batches_of_like_length, best_fit, count_batches
from toolkit.forecast.adapter import Adapter, adapter_of
from toolkit.forecast.lengths import Lengths
from toolkit.forecast.memory import RUNTIME_BYTES, Load, Memory, memory_of, working_bytes
from toolkit.forecast.pace import Rates, batch_seconds, cpu_rates, gpu_rates
from toolkit.forecast.shape import Shape

SIMULATED_ROWS = 4_000
"""Batches are formed for at most so many rows, and their time scaled up."""
EVALUATIONS = 10
START_SECONDS = 8.0
"""A worker that starts cold: importing the libraries and loading a small model."""
LIBRARY_EPOCHS, LIBRARY_BATCH = 3, 8


@dataclass(frozen=True)
class Scene:
    """All that a forecast looks at beside the settings. memory_bytes: of the device that trains; threads: of a CPU."""

    shape: Shape
    lengths: Lengths
    place: Place
    memory_bytes: float
    threads: int = 1
    gpu_name: str = ""
    file_bytes: int = 4
    download_bytes: float = 0.0
    free_bytes: float | None = None


@dataclass(frozen=True)
class Correction:
    """This machine's runs against the prediction: measured / predicted, and how many runs say so."""

    time: float = 1.0
    memory: float = 1.0
    process_bytes: float | None = None
    runs: int = 0


@dataclass(frozen=True)
class Disk:
    """Bytes: what stays (adapter, data), and what comes beside it (checkpoints, a model that is downloaded)."""

    adapter: float
    checkpoints: float
    data: float
    download: float

    @property
    def total(self) -> float:
        return self.adapter + self.checkpoints + self.data + self.download


@dataclass(frozen=True)
class Forecast:
    """step_seconds: an average step. seconds: the whole run, evaluations included. real_share: tokens that are no
    padding. measured: whether a probe stands behind memory and time."""

    config: Config
    scene: Scene
    adapter: Adapter
    load: Load
    memory: Memory
    steps: int
    step_seconds: float
    first_step_seconds: float
    seconds: float
    tokens: int
    real_share: float
    disk: Disk
    correction: Correction
    measured: bool = False

    @property
    def fit(self) -> str:
        """ "fits", "tight" (it would, if nothing else needed memory) or "too large"."""
        if self.memory.peak > 0.95 * self.scene.memory_bytes:
            return "too large"
        free = self.scene.free_bytes if self.scene.free_bytes is not None else self.scene.memory_bytes
        return "fits" if self.memory.peak <= 0.95 * free else "tight"


@dataclass(frozen=True)
class _Epoch:
    """One pass over the training rows: batches, their padded tokens, and the longest of them."""

    lengths: Lengths
    limit: int
    batch_size: int
    processes: int
    packed: bool = False

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """(rows, longest, real tokens) of each simulated batch of one process."""
        tokens = self._tokens
        found = batches_of_like_length(tokens, self.batch_size, self.processes)
        each = self.processes
        return [(math.ceil(len(b) / each), int(tokens[b].max()), int(tokens[b].sum()) // each) for b in found]

    @cached_property
    def _tokens(self) -> Numbers:
        """Of each simulated row: an example, or several that are packed."""
        tokens = replace(self.lengths, train=min(self.lengths.train, SIMULATED_ROWS)).of_all(self.limit)
        return np.array([tokens[row].sum() for row in best_fit(tokens, self.limit)]) if self.packed else tokens

    @property
    def batches(self) -> int:
        scale = self.lengths.train / max(min(self.lengths.train, SIMULATED_ROWS), 1)
        rows = round(len(self._tokens) * scale) if self.packed else self.lengths.train
        return count_batches(rows, self.batch_size, self.processes)


def forecast(config: Config, scene: Scene, correction: Correction | None = None) -> Forecast:
    """Predict the run that `config` describes."""
    found = _predicted(config, scene)
    return found if correction is None else corrected(found, correction)


def corrected(found: Forecast, known: Correction) -> Forecast:
    """A forecast that no run has corrected yet, as this machine's runs correct it."""
    memory = found.memory.scaled(known.memory)
    if known.process_bytes is not None:
        memory = replace(memory, process=known.process_bytes + RUNTIME_BYTES)
    return replace(
        found,
        memory=memory,
        step_seconds=found.step_seconds * known.time,
        first_step_seconds=found.first_step_seconds * known.time,
        seconds=START_SECONDS + (found.seconds - START_SECONDS) * known.time,
        correction=known,
    )


def _predicted(config: Config, scene: Scene) -> Forecast:
    args = config.training.training_args
    adapter = adapter_of(config.lora, scene.shape)
    batch_size = args.per_device_train_batch_size or LIBRARY_BATCH
    packed = packs(config, scene.place)
    epoch = _Epoch(scene.lengths, length_limit(config, scene.shape), batch_size, scene.place.processes, packed)
    rows, longest, real = max(epoch.parts, key=lambda part: part[0] * part[1] if scene.place.cuda else part[2])
    share = scene.lengths.trained_share(epoch.limit)
    load = _load(config, scene, rows, longest, real, share)
    memory = memory_of(scene.shape, adapter, load)
    seconds = [_seconds(scene, adapter, _load(config, scene, n, top, t, share)) for n, top, t in epoch.parts]
    a_batch = sum(seconds) / len(seconds)
    accumulated = args.gradient_accumulation_steps or 1
    steps = math.ceil(epoch.batches / accumulated) * (args.num_train_epochs or LIBRARY_EPOCHS)
    real_share = 1.0  # a CPU computes no padding
    if scene.place.cuda:
        real_share = sum(t for *_, t in epoch.parts) / max(sum(n * top for n, top, _ in epoch.parts), 1)
    passes = epoch.batches * (args.num_train_epochs or LIBRARY_EPOCHS)
    tokens = round(sum(t for *_, t in epoch.parts) / len(epoch.parts) * epoch.batches) * scene.place.processes
    evaluating = EVALUATIONS * _test_share(scene.lengths) * epoch.batches * a_batch / 3
    return Forecast(
        config, scene, adapter, load, memory, steps, a_batch * min(accumulated, epoch.batches),
        max(seconds), START_SECONDS + passes * a_batch + evaluating, tokens,
        real_share, _disk(scene, adapter), Correction(),
    )  # fmt: skip


def length_limit(config: Config, shape: Shape) -> int:
    """Tokens kept of an example: the setting's, or the model's positions where those are fewer."""
    wanted = max_length(config)
    return wanted if shape.positions is None else min(wanted, shape.positions)


def with_measured(found: Forecast, peak_bytes: float, longest_step_seconds: float) -> Forecast:
    """The forecast with what a probe measured on the longest batch in place of what was predicted for it."""
    memory = found.memory
    beyond = max(memory.peak - memory.process, 1.0)
    factor = max(peak_bytes - memory.process, 0.0) / beyond
    ratio = longest_step_seconds / max(found.first_step_seconds, 1e-9)
    return replace(
        found,
        memory=memory.scaled(factor),
        step_seconds=found.step_seconds * ratio,
        first_step_seconds=longest_step_seconds,
        seconds=START_SECONDS + (found.seconds - START_SECONDS) * ratio,
        measured=True,
    )


def _load(config: Config, scene: Scene, rows: int, longest: int, real: int, share: float) -> Load:
    tokens = rows * longest if scene.place.cuda else real
    args, bnb = config.training.training_args, config.model.bitsandbytes
    quantized = ""
    if config.model.quantize and bnb.load_in_4bit:
        quantized = "4bit" if bnb.bnb_4bit_use_double_quant else "4bit-plain"
    elif config.model.quantize and bnb.load_in_8bit:
        quantized = "8bit"
    return Load(
        rows, longest, tokens, round(real * share), precision(config, scene.place), bool(args.gradient_checkpointing),
        quantized, bool(config.lora.lora_dropout), args.optim or "adamw_torch", scene.place.cuda, scene.file_bytes,
    )  # fmt: skip


def _seconds(scene: Scene, adapter: Adapter, load: Load) -> float:
    kept = working_bytes(scene.shape, adapter, load)
    return batch_seconds(scene.shape, adapter, load, rates_of(scene), kept)


def rates_of(scene: Scene) -> Rates:
    """The device's, before any run has corrected them."""
    return gpu_rates(scene.gpu_name) if scene.place.cuda else cpu_rates(scene.threads)


def _test_share(lengths: Lengths) -> float:
    return lengths.test / max(lengths.train, 1)


def _disk(scene: Scene, adapter: Adapter) -> Disk:
    trained = 4.0 * adapter.parameters
    rows = scene.lengths.train + scene.lengths.test
    tokens = rows * float(scene.lengths.tokens.mean() if len(scene.lengths.tokens) else 0)
    # two checkpoints, each with the optimizer's two moments; ids and labels of four bytes
    return Disk(trained + 500_000, 2 * 3 * trained, 8 * tokens + 40 * rows, scene.download_bytes)

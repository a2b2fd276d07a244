"""What a run will take before it starts: parameters, memory, steps, time and disk. Pure; the parts are its neighbours'.

Predicted from the settings, the model's shape and the real lengths of the rows; corrected by what this machine's
earlier runs took (`history.py`), or replaced by what a probe of two real steps took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from toolkit.config import Config
from toolkit.forecast.costs import other_time
from toolkit.forecast.costs.adapter_size import AdapterSize, compute_adapter_size
from toolkit.forecast.costs.memory import (
    RUNTIME_BYTES,
    BatchWorkload,
    MemoryUse,
    activation_and_logit_bytes,
    forecast_memory,
)
from toolkit.forecast.costs.model_shape import ModelShape
from toolkit.forecast.costs.other_time import COLD_SECONDS, READY_SECONDS, GenerationSpeed, PhaseSeconds
from toolkit.forecast.costs.sampled_lengths import SampledLengths
from toolkit.forecast.costs.step_time import (
    KERNEL_BUILD_SECONDS,
    DeviceRates,
    SimulatedEpoch,
    batch_seconds,
    cpu_rates,
    gpu_rates,
)
from toolkit.settings.device_defaults import (
    ComputeDevice,
    computes_padding,
    resolve_max_length,
    resolve_precision,
    uses_packing,
)

LIBRARY_EPOCHS, LIBRARY_BATCH = 3, 8
OUTPUT_HEAD_MODULES = {"lm_head", "embed_out"}
"""Trained in full, they need logits that exist all at once."""


@dataclass(frozen=True)
class Scene:
    """All that a forecast looks at beside the settings. memory_bytes: of the device that trains; threads: of a CPU.
    ready: whether a process waits that has imported the libraries."""

    shape: ModelShape
    lengths: SampledLengths
    place: ComputeDevice
    memory_bytes: float
    threads: int = 1
    gpu_name: str = ""
    file_bytes: int = 4
    download_bytes: float = 0.0
    free_bytes: float | None = None
    ready: bool = True


@dataclass(frozen=True)
class Correction:
    """This machine's runs against the prediction, and how many runs say so. time: of training steps, memory, and rest,
    of testing and answering: measured / predicted. starting: seconds, whatever the size."""

    time: float = 1.0
    memory: float = 1.0
    process_bytes: float | None = None
    starting: float | None = None
    rest: float = 1.0
    runs: int = 0


@dataclass(frozen=True)
class DiskUse:
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
    """step_seconds: an average step. times: of the whole run; by_size: the part of its starting that follows from
    rows and weights; evaluations: how many. real_share: tokens that are no padding. measured: whether a probe stands
    behind memory and time."""

    config: Config
    scene: Scene
    adapter: AdapterSize
    load: BatchWorkload
    memory: MemoryUse
    steps: int
    step_seconds: float
    first_step_seconds: float
    times: PhaseSeconds
    by_size: float
    evaluations: int
    tokens: int
    real_share: float
    disk: DiskUse
    correction: Correction
    measured: bool = False

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.times.total

    @property
    def fit(self) -> str:
        """ "fits", "tight" (it would, if nothing else needed memory) or "too large"."""
        if self.memory.peak > 0.95 * self.scene.memory_bytes:
            return "too large"
        free = self.scene.free_bytes if self.scene.free_bytes is not None else self.scene.memory_bytes
        return "fits" if self.memory.peak <= 0.95 * free else "tight"


def forecast_run(config: Config, scene: Scene, correction: Correction | None = None) -> Forecast:
    """Predict the run that `config` describes."""
    found = _predict_run(config, scene)
    return found if correction is None else apply_correction(found, correction)


def apply_correction(found: Forecast, known: Correction) -> Forecast:
    """A forecast that no run has corrected yet, as this machine's runs correct it."""
    memory = found.memory.scaled(known.memory)
    if known.process_bytes is not None:
        memory = replace(memory, process=known.process_bytes + RUNTIME_BYTES)
    return replace(
        found,
        memory=memory,
        step_seconds=found.step_seconds * known.time,
        first_step_seconds=found.first_step_seconds * known.time,
        times=PhaseSeconds(
            found.times.starting if known.starting is None else known.starting + found.by_size,
            found.times.training * known.time,
            found.times.evaluating * known.rest,
            found.times.ending * known.rest,
        ),
        correction=known,
    )


def _predict_run(config: Config, scene: Scene) -> Forecast:
    args = config.training.training_args
    adapter = compute_adapter_size(config.lora, scene.shape)
    batch_size = args.per_device_train_batch_size or LIBRARY_BATCH
    packed = uses_packing(config)
    epoch = SimulatedEpoch(scene.lengths, length_limit(config, scene.shape), batch_size, scene.place.processes, packed)
    rows, longest, real = max(
        epoch.parts, key=lambda part: part[0] * part[1] if computes_padding(config, scene.place) else part[2]
    )
    share = scene.lengths.trained_share(epoch.limit) if config.training.sft_args.completion_only_loss else 1.0
    load = replace(_batch_workload(config, scene, rows, longest, real, share), widths=epoch.widths, counts=epoch.counts)
    memory = forecast_memory(scene.shape, adapter, load)
    seconds = [
        _batch_seconds(scene, adapter, _batch_workload(config, scene, n, top, t, share)) for n, top, t in epoch.parts
    ]
    passes = epoch.batches * (args.num_train_epochs or LIBRARY_EPOCHS)
    compiled = KERNEL_BUILD_SECONDS * load.counts if memory.kernels else 0.0
    a_batch = sum(seconds) / len(seconds) + compiled / max(passes, 1)
    accumulated = args.gradient_accumulation_steps or 1
    steps = math.ceil(epoch.batches / accumulated) * (args.num_train_epochs or LIBRARY_EPOCHS)
    real_share = 1.0
    if computes_padding(config, scene.place):
        real_share = sum(t for *_, t in epoch.parts) / max(sum(n * top for n, top, _ in epoch.parts), 1)
    tokens = round(sum(t for *_, t in epoch.parts) / len(epoch.parts) * epoch.batches) * scene.place.processes
    writer = GenerationSpeed(scene.shape, adapter, load, device_rates(scene))
    start = other_time.startup_seconds(scene.lengths, writer, ready=scene.ready)
    row_seconds = a_batch * epoch.batches / max(scene.lengths.train, 1)
    times = PhaseSeconds(
        start, passes * a_batch, other_time.evaluation_seconds(config, scene.lengths, writer, steps, row_seconds),
        other_time.final_phase_seconds(config, scene.lengths, writer),
    )  # fmt: skip
    return Forecast(
        config, scene, adapter, load, memory, steps, a_batch * min(accumulated, epoch.batches),
        max(seconds), times, start - (READY_SECONDS if scene.ready else COLD_SECONDS),
        other_time.count_evaluations(config, steps), tokens,
        real_share, _disk_use(scene, adapter), Correction(),
    )  # fmt: skip


def length_limit(config: Config, shape: ModelShape) -> int:
    """Tokens kept of an example: the setting's, or the model's positions where those are fewer."""
    wanted = resolve_max_length(config)
    return wanted if shape.positions is None else min(wanted, shape.positions)


def with_measurement(found: Forecast, peak_bytes: float, process_bytes: float, longest_step_seconds: float) -> Forecast:
    """The forecast with what a probe measured on the largest batch in place of what was predicted for it.

    The probe is a process of its own: what a run's takes before it has a model stays predicted.
    """
    memory = found.memory
    own = 0.0 if found.scene.place.cuda else process_bytes + RUNTIME_BYTES - memory.process
    factor = max(peak_bytes - own - memory.process, 0.0) / max(memory.peak - memory.process, 1.0)
    ratio = longest_step_seconds / max(found.first_step_seconds, 1e-9)
    return replace(
        found,
        memory=memory.scaled(factor),
        step_seconds=found.step_seconds * ratio,
        first_step_seconds=longest_step_seconds,
        times=replace(found.times, training=found.times.training * ratio),
        measured=True,
    )


def _batch_workload(config: Config, scene: Scene, rows: int, longest: int, real: int, share: float) -> BatchWorkload:
    tokens = rows * longest if computes_padding(config, scene.place) else real
    args, bnb = config.training.training_args, config.model.bitsandbytes
    quantized = ""
    if config.model.quantize and bnb.load_in_4bit:
        quantized = "4bit" if bnb.bnb_4bit_use_double_quant else "4bit-plain"
    elif config.model.quantize and bnb.load_in_8bit:
        quantized = "8bit"
    return BatchWorkload(
        rows, longest, tokens, round(real * share), resolve_precision(config, scene.place), bool(args.gradient_checkpointing),
        quantized, bool(config.lora.lora_dropout), args.optim or "adamw_torch", scene.place.cuda, scene.file_bytes,
        whole_logits=not scene.shape.plain_head or bool(OUTPUT_HEAD_MODULES & set(config.lora.modules_to_save or ())),
    )  # fmt: skip


def _batch_seconds(scene: Scene, adapter: AdapterSize, load: BatchWorkload) -> float:
    kept = activation_and_logit_bytes(scene.shape, adapter, load)
    return batch_seconds(scene.shape, adapter, load, device_rates(scene), kept)


def device_rates(scene: Scene) -> DeviceRates:
    """The device's, before any run has corrected them."""
    return gpu_rates(scene.gpu_name) if scene.place.cuda else cpu_rates(scene.threads)


def _disk_use(scene: Scene, adapter: AdapterSize) -> DiskUse:
    trained = 4.0 * adapter.parameters
    rows = scene.lengths.train + scene.lengths.test
    tokens = rows * float(scene.lengths.tokens.mean() if len(scene.lengths.tokens) else 0)
    # two checkpoints, each with the optimizer's two moments; ids and labels of four bytes
    return DiskUse(trained + 500_000, 2 * 3 * trained, 8 * tokens + 40 * rows, scene.download_bytes)

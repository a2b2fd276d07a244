"""The forecast of a run: parameters, memory, steps, time and disk.

It is predicted from the settings, the model's shape and the lengths of the rows. Finished runs on this machine correct
it (`history.py`), and a measurement of two real steps replaces the predicted memory and step time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

LIBRARY_EPOCHS, LIBRARY_BATCH = 3, 8  # defaults of transformers' TrainingArguments
USABLE_MEMORY_SHARE = 0.95  # a run that needs more than this share is likely to fail
_ADAPTER_FILES_BYTES = 500_000  # tokenizer and model card that are saved with an adapter
OUTPUT_HEAD_MODULES = {"lm_head", "embed_out"}
"""Output layers; if one is trained in full, the logits of all scored tokens exist at once."""


@dataclass(frozen=True)
class Scene:
    """Everything that a forecast depends on except the settings.

    memory_bytes: of the device, for each process. threads: of the CPU, for each process. file_bytes: of a stored
    weight. download_bytes: of the base model, 0 if it is on this disk. free_bytes: of the memory, None if not
    correction. ready: whether a standby worker has imported the libraries.
    """

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
    """How finished runs on this machine differ from their forecasts.

    time, memory, rest: measured / predicted, for training steps, memory beyond the process, and evaluation plus final
    phase. process_bytes: of the process before it has a model. starting: seconds that do not depend on the size of the
    run. runs: number of runs behind the correction.
    """

    time: float = 1.0
    memory: float = 1.0
    process_bytes: float | None = None
    starting: float | None = None
    rest: float = 1.0
    runs: int = 0


@dataclass(frozen=True)
class DiskUse:
    """Bytes on the disk: the adapter and the data of the run, its checkpoints, and a downloaded base model."""

    adapter: float
    checkpoints: float
    data: float
    download: float

    @property
    def total(self) -> float:
        """All bytes together."""
        return self.adapter + self.checkpoints + self.data + self.download


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    load: the largest batch. step_seconds: of an average step. first_step_seconds: of the slowest batch. by_size:
    seconds of the start that depend on rows and weights. evaluations: their number. tokens: of one epoch, which has
    epoch_steps. real_share: share of the computed tokens that are not padding. measured: whether memory and step time
    come from a measurement.
    """

    config: Config
    scene: Scene
    adapter: AdapterSize
    load: BatchWorkload
    memory: MemoryUse
    steps: int
    epoch_steps: int
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
        """Duration of the whole run."""
        return self.times.total

    @property
    def fit(self) -> str:
        """Return "fits", "tight" (fits only after other programs free memory) or "too large"."""
        if self.memory.peak > USABLE_MEMORY_SHARE * self.scene.memory_bytes:
            return "too large"
        free = self.scene.free_bytes if self.scene.free_bytes is not None else self.scene.memory_bytes
        return "fits" if self.memory.peak <= USABLE_MEMORY_SHARE * free else "tight"


def forecast_run(config: Config, scene: Scene, correction: Correction | None = None) -> Forecast:
    """Return the forecast of a config, with the correction if there is one."""
    found = _predict_run(config, scene)
    return found if correction is None else apply_correction(found, correction)


def apply_correction(found: Forecast, correction: Correction) -> Forecast:
    """Return an uncorrected forecast with the correction applied."""
    memory = found.memory.scaled(correction.memory)
    if correction.process_bytes is not None:
        memory = replace(memory, process=correction.process_bytes + RUNTIME_BYTES)
    return replace(
        found,
        memory=memory,
        step_seconds=found.step_seconds * correction.time,
        first_step_seconds=found.first_step_seconds * correction.time,
        times=PhaseSeconds(
            found.times.starting if correction.starting is None else correction.starting + found.by_size,
            found.times.training * correction.time,
            found.times.evaluating * correction.rest,
            found.times.ending * correction.rest,
        ),
        correction=correction,
    )


def _predict_run(config: Config, scene: Scene) -> Forecast:
    args = config.training.training_args
    adapter = compute_adapter_size(config.lora, scene.shape)
    size, limit = args.per_device_train_batch_size or LIBRARY_BATCH, length_limit(config, scene.shape)
    epoch = SimulatedEpoch(scene.lengths, limit, size, scene.place.processes, uses_packing(config))
    rows, longest, real = max(
        epoch.batch_sizes, key=lambda part: part[0] * part[1] if computes_padding(config, scene.place) else part[2]
    )
    share = scene.lengths.trained_share(epoch.limit) if config.training.sft_args.completion_only_loss else 1.0
    largest = _batch_workload(config, scene, rows, longest, real, share)
    load = replace(largest, widths=epoch.distinct_widths, counts=epoch.distinct_token_counts)
    memory = forecast_memory(scene.shape, adapter, load)
    seconds = [
        _batch_seconds(scene, adapter, _batch_workload(config, scene, n, top, t, share))
        for n, top, t in epoch.batch_sizes
    ]
    accumulated, epochs = args.gradient_accumulation_steps or 1, args.num_train_epochs or LIBRARY_EPOCHS
    epoch_steps = math.ceil(epoch.batches / accumulated)
    steps = args.max_steps or epoch_steps * epochs
    passes = args.max_steps * accumulated if args.max_steps else epoch.batches * epochs
    mean_batch_seconds = _mean(seconds)
    if memory.kernels:
        mean_batch_seconds += KERNEL_BUILD_SECONDS * load.counts / max(passes, 1)
    generation = GenerationSpeed(scene.shape, adapter, load, device_rates(scene))
    start = other_time.startup_seconds(scene.lengths, generation, ready=scene.ready)
    row_seconds = mean_batch_seconds * epoch.batches / max(scene.lengths.train, 1)
    times = PhaseSeconds(
        starting=start,
        training=passes * mean_batch_seconds,
        evaluating=other_time.evaluation_seconds(config, scene.lengths, generation, steps, row_seconds),
        ending=other_time.final_phase_seconds(config, scene.lengths, generation),
    )
    return Forecast(
        config=config,
        scene=scene,
        adapter=adapter,
        load=load,
        memory=memory,
        steps=steps,
        epoch_steps=epoch_steps,
        step_seconds=mean_batch_seconds * min(accumulated, epoch.batches),
        first_step_seconds=max(seconds),
        times=times,
        by_size=start - (READY_SECONDS if scene.ready else COLD_SECONDS),
        evaluations=other_time.count_evaluations(config, steps),
        tokens=round(_mean([tokens for *_, tokens in epoch.batch_sizes]) * epoch.batches) * scene.place.processes,
        real_share=_real_share(epoch) if computes_padding(config, scene.place) else 1.0,
        disk=_disk_use(scene, adapter),
        correction=Correction(),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _real_share(epoch: SimulatedEpoch) -> float:
    """Return the share of the tokens of padded batches that are not padding."""
    padded = sum(rows * longest for rows, longest, _ in epoch.batch_sizes)
    return sum(tokens for *_, tokens in epoch.batch_sizes) / max(padded, 1)


def length_limit(config: Config, shape: ModelShape) -> int:
    """Return the max sequence length in tokens: the setting, but at most the model's number of positions."""
    chosen = resolve_max_length(config)
    return chosen if shape.positions is None else min(chosen, shape.positions)


def with_measurement(found: Forecast, peak_bytes: float, process_bytes: float, longest_step_seconds: float) -> Forecast:
    """Return the forecast with memory and step time as measured on the largest batch.

    The bytes of the run's process before it has a model stay predicted: the measuring process is another one.
    """
    memory = found.memory
    # on a CPU the measured peak includes the measuring process, on a GPU it is the device's memory only
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
    """real: tokens without padding. share: of them that have a loss."""
    tokens = rows * longest if computes_padding(config, scene.place) else real
    args, bnb = config.training.training_args, config.model.bitsandbytes
    quantized = ""
    if config.model.quantize and bnb.load_in_4bit:
        quantized = "4bit" if bnb.bnb_4bit_use_double_quant else "4bit-plain"
    elif config.model.quantize and bnb.load_in_8bit:
        quantized = "8bit"
    trains_head = bool(OUTPUT_HEAD_MODULES & set(config.lora.modules_to_save or ()))
    trains_head |= scene.shape.tied and bool(config.lora.trainable_token_indices)
    return BatchWorkload(
        rows=rows,
        longest=longest,
        tokens=tokens,
        scored=round(real * share),
        precision=resolve_precision(config, scene.place),
        checkpointing=bool(args.gradient_checkpointing),
        quantized=quantized,
        dropout=bool(config.lora.lora_dropout),
        optimizer=args.optim or "adamw_torch",
        gpu=scene.place.cuda,
        file_bytes=scene.file_bytes,
        shards=scene.place.processes if config.shard_model and config.accelerate else 1,
        whole_logits=not scene.shape.plain_head or trains_head,
    )


def _batch_seconds(scene: Scene, adapter: AdapterSize, load: BatchWorkload) -> float:
    kept = activation_and_logit_bytes(scene.shape, adapter, load)
    return batch_seconds(scene.shape, adapter, load, device_rates(scene), kept)


def device_rates(scene: Scene) -> DeviceRates:
    """Return the speed of the device, uncorrected."""
    return gpu_rates(scene.gpu_name) if scene.place.cuda else cpu_rates(scene.threads)


def _disk_use(scene: Scene, adapter: AdapterSize) -> DiskUse:
    trained = 4.0 * adapter.parameters
    rows = scene.lengths.train + scene.lengths.test
    tokens = rows * float(scene.lengths.tokens.mean() if len(scene.lengths.tokens) else 0)
    # two checkpoints, each with the weights and Adam's two moments; token IDs and labels of four bytes each
    return DiskUse(trained + _ADAPTER_FILES_BYTES, 2 * 3 * trained, 8 * tokens + 40 * rows, scene.download_bytes)

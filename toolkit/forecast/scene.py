"""Puts together what a forecast looks at: the model's shape, the rows' lengths, the device. For a draft, or for a run.

Reads files, never waits for the network, loads no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from toolkit.config import Config
from toolkit.data.table import Table
from toolkit.errors import DataError, ToolkitError
from toolkit.forecast.base_model_files import BaseModelFiles, find_base_model
from toolkit.forecast.costs.model_shape import read_model_shape
from toolkit.forecast.costs.sampled_lengths import SampledLengths, sample_lengths
from toolkit.forecast.forecast import Scene
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.worker_process import process_count
from toolkit.services.spare_process import can_run_as_fork, is_spare_enabled
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.system.machine import Machine, training_cores


@dataclass(frozen=True)
class NoForecast:
    """Why there is no forecast, in a sentence. waiting: whether asking again soon may help."""

    why: str
    waiting: bool = False


def scene_for(config: Config, table: Table | None, machine: Machine | None) -> Scene | NoForecast:
    """What the run of `config` on `table` would meet on `machine`."""
    if table is None:
        return NoForecast("Choose a dataset to see what the run would take.")
    try:
        base = _find_base_model(config)
        if isinstance(base, NoForecast):
            return base
        chat = _uses_chat(config, base)
        return _build_scene(config, base, sample_lengths(table, config.data, base.tokenizer, chat), machine)
    except DataError as error:
        return NoForecast(error.message)
    except ToolkitError as error:
        return NoForecast(f"{error.message} {error.hint}")


def scene_of_run(run: RunDir, machine: Machine | None) -> Scene | NoForecast:
    """What a run met: its own tokenised rows. Raises ToolkitError when its settings can't be read."""
    config = read_run_config(run)
    base = _find_base_model(config)
    return base if isinstance(base, NoForecast) else _build_scene(config, base, lengths_of_run(run), machine)


def lengths_of_run(run: RunDir) -> SampledLengths:
    """The exact token counts of a run's rows. Raises ToolkitError when they were not prepared, or are gone."""
    try:
        with pa.memory_map(str(run.data_dir / "tokens.arrow")) as file:
            whole = pa.ipc.open_stream(file).read_all().select(["length", "trained"])
            tokens, trained = (whole[name].to_numpy().astype(np.int64) for name in ("length", "trained"))
        train, test = (np.load(run.data_dir / f"{name}.npy", allow_pickle=False) for name in ("train", "test"))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ToolkitError(f"The prepared rows of run {run.id} can't be read: {error}.", "Start it again.") from error
    return SampledLengths(len(train), len(test), tokens[train], trained[train], np.sort(tokens[train])[::-1][:64], True)


def _find_base_model(config: Config) -> BaseModelFiles | NoForecast:
    found = find_base_model(config)
    if found == "asking":
        return NoForecast("Asking the hub how large the model is…", waiting=True)
    if found == "unknown":
        return NoForecast("The model's config.json is not on this machine, so its size is not known yet.")
    return found


def _uses_chat(config: Config, base: BaseModelFiles) -> bool:
    wanted = config.data.use_chat_template
    return wanted if wanted is not None else base.chat


def _build_scene(config: Config, base: BaseModelFiles, lengths: SampledLengths, machine: Machine | None) -> Scene:
    shape = read_model_shape(base.config)
    processes = process_count(config, machine) if config.accelerate else 1
    file_bytes = 2 if base.halves else 4
    download = 0.0 if base.weights else float(shape.parameters * file_bytes)
    place = device_for_run(config, machine, processes)
    if place.cuda and machine is not None:
        card = machine.gpus[0]
        return Scene(
            shape, lengths, place, card.memory_bytes, 1, card.name, file_bytes, download, ready=_can_fork(config, machine)
        )  # fmt: skip
    memory = psutil.virtual_memory()
    limit = min(memory.total, container_memory_limit() or memory.total)
    free = min(memory.available, limit)
    threads = max(1, training_cores() // processes)
    return Scene(
        shape,
        lengths,
        place,
        limit / processes,
        threads,
        "",
        file_bytes,
        download,
        free / processes,
        _can_fork(config, machine),
    )


def _can_fork(config: Config, machine: Machine | None) -> bool:
    """Whether the run may be a fork of the spare, which is there by then as a rule."""
    return is_spare_enabled() and can_run_as_fork(config, machine)


def device_for_run(config: Config, machine: Machine | None, processes: int = 1) -> ComputeDevice:
    """Where the run of `config` would compute on `machine`; a CPU while nothing is known of it."""
    if machine is None or not machine.cuda or config.model.device_map == "cpu":
        return ComputeDevice(processes=processes)
    flash, liger = ("flash_attn" in machine.versions, "liger_kernel" in machine.versions)
    return ComputeDevice(True, machine.gpus[0].capability, machine.bf16_gpu, processes, flash, liger)


def container_memory_limit() -> int | None:
    """Bytes that this container may use, or None without a limit."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

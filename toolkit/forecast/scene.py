"""The scene of a forecast (model shape, row lengths, device), for a draft or for an existing run.

Only files are read: no waiting for the network, no model is loaded.
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
from toolkit.forecast.costs.sampled_lengths import (
    LONGEST_SAMPLED_ROWS,
    SampledLengths,
    TokenCounts,
    counted_lengths,
    sample_lengths,
)
from toolkit.forecast.forecast import Scene
from toolkit.runs.event_facts import read_event_facts
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.runs.slots import SlotShare
from toolkit.runs.worker_process import process_count, team_size
from toolkit.services.spare_process import can_run_as_fork, is_spare_enabled
from toolkit.settings.device_defaults import ComputeDevice
from toolkit.system.machine import Machine, training_cores


@dataclass(frozen=True)
class NoForecast:
    """The reason why there is no forecast. waiting: whether to try again soon."""

    why: str
    waiting: bool = False


def scene_for(
    config: Config,
    table: Table | None,
    machine: Machine | None,
    counts: TokenCounts | None = None,
    slots: int = 1,
) -> Scene | NoForecast:
    """Return the scene of a config, or the reason why there is no forecast.

    counts: tokens of the table's rows as the background worker counted them, see `counted_lengths`. slots: how many
    runs share the machine.
    """
    if table is None:
        return NoForecast("Choose a dataset to see a forecast.")
    try:
        base = _find_base_model(config)
        if isinstance(base, NoForecast):
            return base
        if counts is not None:
            lengths = counted_lengths(table, config.data, counts)
        else:
            lengths = sample_lengths(table, config.data, base.tokenizer, _uses_chat(config, base))
        processes = process_count(config, machine) if config.accelerate else 1
        share = SlotShare(tuple(range(min(processes, slots))), slots)
        return _build_scene(config, base, lengths, machine, training_cores() // share.processes_on_machine(processes))
    except DataError as error:
        return NoForecast(error.message)
    except ToolkitError as error:
        return NoForecast(f"{error.message} {error.hint}")


def scene_of_run(run: RunDir, machine: Machine | None) -> Scene | NoForecast:
    """Return the scene of an existing run, with its tokenized rows. Raises ToolkitError if its files cannot be read."""
    config = read_run_config(run)
    base = _find_base_model(config)
    threads = read_event_facts(run.events_path).plan.get("threads")
    if not isinstance(threads, int):  # written by an earlier version
        threads = training_cores() // (process_count(config, machine) if config.accelerate else 1)
    return base if isinstance(base, NoForecast) else _build_scene(config, base, lengths_of_run(run), machine, threads)


def lengths_of_run(run: RunDir) -> SampledLengths:
    """Return the exact token counts of a run's rows. Raises ToolkitError if they are missing or cannot be read."""
    try:
        with pa.memory_map(str(run.data_dir / "tokens.arrow")) as file:
            whole = pa.ipc.open_stream(file).read_all().select(["length", "trained"])
            tokens, trained = (whole[name].to_numpy().astype(np.int64) for name in ("length", "trained"))
        train, test = (np.load(run.data_dir / f"{name}.npy", allow_pickle=False) for name in ("train", "test"))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ToolkitError(
            f"The prepared rows of run {run.id} can't be read: {error}.", "Start the run again."
        ) from error
    longest = np.sort(tokens[train])[::-1][:LONGEST_SAMPLED_ROWS]
    return SampledLengths(len(train), len(test), tokens[train], trained[train], longest, "counted")


def _find_base_model(config: Config) -> BaseModelFiles | NoForecast:
    found = find_base_model(config)
    if found == "asking":
        return NoForecast("Downloading the model's config.json from the Hub…", waiting=True)
    if found == "unknown":
        return NoForecast("The model's config.json is not on this machine, so its size is not known.")
    return found


def _uses_chat(config: Config, base: BaseModelFiles) -> bool:
    chosen = config.data.use_chat_template
    return chosen if chosen is not None else base.chat


def _build_scene(
    config: Config, base: BaseModelFiles, lengths: SampledLengths, machine: Machine | None, threads: int
) -> Scene:
    shape = read_model_shape(base.config)
    processes = process_count(config, machine) if config.accelerate else 1
    file_bytes = 2 if base.halves else 4
    download = 0.0 if base.weights else float(shape.parameters * file_bytes)
    place = device_for_run(config, machine, team_size(config, machine))
    if place.cuda and machine is not None:
        card = machine.gpus[0]
        ready = _can_fork(config, machine)
        return Scene(shape, lengths, place, card.memory_bytes, 1, card.name, file_bytes, download, ready=ready)
    memory = psutil.virtual_memory()
    limit = min(memory.total, container_memory_limit() or memory.total)
    free = min(memory.available, limit)
    return Scene(
        shape=shape,
        lengths=lengths,
        place=place,
        memory_bytes=limit / processes,
        threads=max(1, threads),
        file_bytes=file_bytes,
        download_bytes=download,
        free_bytes=free / processes,
        ready=_can_fork(config, machine),
    )


def _can_fork(config: Config, machine: Machine | None) -> bool:
    """Return whether the run can be forked from the standby worker, which is usually ready by the time of Start."""
    return is_spare_enabled() and can_run_as_fork(config, machine)


def device_for_run(config: Config, machine: Machine | None, processes: int = 1) -> ComputeDevice:
    """Return the device of a config's run on `machine`; a CPU if the machine is not known yet."""
    if machine is None or not machine.cuda or config.model.device_map == "cpu":
        return ComputeDevice(processes=processes)
    return ComputeDevice(
        cuda=True,
        capability=machine.gpus[0].capability,
        bf16_gpu=machine.bf16_gpu,
        processes=processes,
        flash="flash_attn" in machine.versions,
        liger="liger_kernel" in machine.versions,
    )


def container_memory_limit() -> int | None:
    """Return the memory limit of this container in bytes (cgroup v2), or None without a limit."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

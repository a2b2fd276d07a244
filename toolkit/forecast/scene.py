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
from toolkit.forecast.base_model_files import Base, find_base
from toolkit.forecast.costs.model_shape import read_shape
from toolkit.forecast.costs.sampled_lengths import Lengths, measure_lengths
from toolkit.forecast.forecast import Scene
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.runs.worker_process import process_count
from toolkit.services.spare_process import fits_spare, spare_wanted
from toolkit.settings.device_defaults import Place
from toolkit.system.machine import Machine, training_cores


@dataclass(frozen=True)
class Unknown:
    """Why there is no forecast, in a sentence. waiting: whether asking again soon may help."""

    why: str
    waiting: bool = False


def scene_for(config: Config, table: Table | None, machine: Machine | None) -> Scene | Unknown:
    """What the run of `config` on `table` would meet on `machine`."""
    if table is None:
        return Unknown("Choose a dataset to see what the run would take.")
    try:
        base = _base(config)
        if isinstance(base, Unknown):
            return base
        chat = _uses_chat(config, base)
        return _scene(config, base, measure_lengths(table, config.data, base.tokenizer, chat), machine)
    except DataError as error:
        return Unknown(error.message)
    except ToolkitError as error:
        return Unknown(f"{error.message} {error.hint}")


def scene_of_run(run: RunDir, machine: Machine | None) -> Scene | Unknown:
    """What a run met: its own tokenised rows. Raises ToolkitError when its settings can't be read."""
    config = read_config(run)
    base = _base(config)
    return base if isinstance(base, Unknown) else _scene(config, base, lengths_of_run(run), machine)


def lengths_of_run(run: RunDir) -> Lengths:
    """The exact token counts of a run's rows. Raises ToolkitError when they were not prepared, or are gone."""
    try:
        with pa.memory_map(str(run.data_dir / "tokens.arrow")) as file:
            whole = pa.ipc.open_stream(file).read_all().select(["length", "trained"])
            tokens, trained = (whole[name].to_numpy().astype(np.int64) for name in ("length", "trained"))
        train, test = (np.load(run.data_dir / f"{name}.npy", allow_pickle=False) for name in ("train", "test"))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ToolkitError(f"The prepared rows of run {run.id} can't be read: {error}.", "Start it again.") from error
    return Lengths(len(train), len(test), tokens[train], trained[train], np.sort(tokens[train])[::-1][:64], True)


def _base(config: Config) -> Base | Unknown:
    found = find_base(config)
    if found == "asking":
        return Unknown("Asking the hub how large the model is…", waiting=True)
    if found == "unknown":
        return Unknown("The model's config.json is not on this machine, so its size is not known yet.")
    return found


def _uses_chat(config: Config, base: Base) -> bool:
    wanted = config.data.use_chat_template
    return wanted if wanted is not None else base.chat


def _scene(config: Config, base: Base, lengths: Lengths, machine: Machine | None) -> Scene:
    shape = read_shape(base.config)
    processes = process_count(config, machine) if config.accelerate else 1
    file_bytes = 2 if base.halves else 4
    download = 0.0 if base.weights else float(shape.parameters * file_bytes)
    place = place_on(config, machine, processes)
    if place.cuda and machine is not None:
        card = machine.gpus[0]
        return Scene(
            shape, lengths, place, card.memory_bytes, 1, card.name, file_bytes, download, ready=_ready(config, machine)
        )  # fmt: skip
    memory = psutil.virtual_memory()
    limit = min(memory.total, container_limit() or memory.total)
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
        _ready(config, machine),
    )


def _ready(config: Config, machine: Machine | None) -> bool:
    """Whether the run may be a fork of the spare, which is there by then as a rule."""
    return spare_wanted() and fits_spare(config, machine)


def place_on(config: Config, machine: Machine | None, processes: int = 1) -> Place:
    """Where the run of `config` would compute on `machine`; a CPU while nothing is known of it."""
    if machine is None or not machine.cuda or config.model.device_map == "cpu":
        return Place(processes=processes)
    flash, liger = ("flash_attn" in machine.versions, "liger_kernel" in machine.versions)
    return Place(True, machine.gpus[0].capability, machine.bf16_gpu, processes, flash, liger)


def container_limit() -> int | None:
    """Bytes that this container may use, or None without a limit."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None

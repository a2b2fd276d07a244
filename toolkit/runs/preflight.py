"""Checks of a config against the data, the disk and the machine, made before a run starts.

They read files, use no network and load no model. What is not given (the table, the machine) is not checked.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from toolkit.config import BUNDLED, Config
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.examples.split import size_problems, usable_count
from toolkit.data.examples.templates import template_problems
from toolkit.data.table import Table
from toolkit.errors import Problem
from toolkit.runs.run_dir import save_dir_of
from toolkit.runs.worker_process import machine_count
from toolkit.settings.device_defaults import SHARDING_PATH
from toolkit.settings.model_source import bundled_model_folder, model_kind
from toolkit.system.machine import Machine, is_own_address
from toolkit.system.printable import format_plural

NEEDED_DISK_BYTES = 200_000_000
"""Free space without which no run starts: the demo model's checkpoints, adapter and log."""
COMFORTABLE_DISK_BYTES = 2_000_000_000
"""Free space below which a warning appears: three checkpoints of an adapter for a model with 7 billion parameters."""
NEEDED_DISK_FILES = 1_000
"""Free inodes without which no run starts: a full table of inodes fails like a full disk, at any free space."""
FIRST_UNPRIVILEGED_PORT = 1024
"""First port that a program without special rights may open."""
SKIPPED_BECAUSE = "a missing cell in a column that the templates use"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_ARGS = "training.training_args."


def preflight_problems(config: Config, table: Table | None, machine: Machine | None) -> list[Problem]:
    """Return every error and warning of this config on this machine with this data.

    table, machine: None skips the checks that need them.
    """
    found = [*_data_problems(config, table), *_model_problems(config), *_disk_problems(save_dir_of(config))]
    found += _team_problems(config)
    if config.accelerate and config.shard_model and (problem := find_sharding_problem(config)):
        found.append(problem)
    if machine is not None:
        found += [
            *_precision_problems(config, machine),
            *_device_problems(config, machine),
            *_quantization_problems(config, machine),
        ]
    return found


def preflight_needs_machine(config: Config) -> bool:
    """Return whether any check of this config depends on the machine."""
    args, model = config.training.training_args, config.model
    on_gpu = (model.device_map or "").startswith("cuda")
    return bool(args.bf16 or args.fp16 or args.tf32 or model.quantize or config.accelerate or on_gpu)


def _data_problems(config: Config, table: Table | None) -> list[Problem]:
    data = config.data
    if table is None:
        is_file = data.file_type != "huggingface" and not str(data.path).startswith(BUNDLED)
        if is_file and not Path(data.path).expanduser().is_file():
            return [Problem("data.path", f"There is no file '{data.path}'.", "Upload it, or correct the path.")]
        return []
    found = [*template_problems(config, table.columns, table.label), *chat_problems(data, table)]
    if any(problem.severity == "error" for problem in found):
        return [*found, *size_problems(config, table.rows)]
    required = renderer_of(data, table.columns).columns_required
    usable = usable_count(table, required)
    if usable < table.rows:
        skipped = table.rows - usable
        have = "has" if skipped == 1 else "have"
        message = f"{skipped:,} of {format_plural(table.rows, 'row')} {have} {SKIPPED_BECAUSE} and will be skipped."
        found.append(Problem("data.path", message, "Fill the cells, or use other columns.", "warning"))
    return [*found, *size_problems(config, usable)]


def _model_problems(config: Config) -> list[Problem]:
    path, kind, name = "model.hf_model_ckpt", model_kind(config), config.model.hf_model_ckpt or ""
    if kind == "none":
        return [Problem(path, "No base model is chosen.", "Enter a Hub ID, a folder, or bundled:demo-model.")]
    if kind == "hub":
        if _HUB_ID.fullmatch(name):
            return []
        hint = "A Hub ID looks like owner/name; a folder begins with /, ./ or ~."
        return [Problem(path, f"'{name}' is neither a Hub ID nor a folder.", hint)]
    folder = bundled_model_folder(name) if kind == "bundled" else Path(name).expanduser()
    if folder is None:
        return [Problem(path, f"No bundled model is called '{name}'.", "Use bundled:demo-model.")]
    if folder.is_symlink() and not folder.is_dir():
        message = f"The folder '{name}' is a symbolic link to '{folder.readlink()}', which is not a folder."
        return [Problem(path, message, "Correct the link, or enter another folder.")]
    if not folder.is_dir():
        return [Problem(path, f"There is no folder '{name}'.", "Correct the path.")]
    if not (folder / "config.json").is_file():
        hint = "Choose the folder that contains config.json and the safetensors files."
        return [Problem(path, f"The folder '{name}' is not a model folder: it has no config.json.", hint)]
    return []


def _precision_problems(config: Config, machine: Machine) -> list[Problem]:
    args, found = config.training.training_args, []
    on_gpu = machine.cuda and config.model.device_map != "cpu"
    if args.bf16 and on_gpu and not machine.bf16_gpu:
        hint = "Use fp16, or turn bf16 off."
        found.append(Problem(_ARGS + "bf16", f"{machine.gpus[0].name} does not support bf16.", hint))
    if args.fp16 and not on_gpu:
        message = "fp16 has no effect on a CPU: training runs in full precision."
        found.append(Problem(_ARGS + "fp16", message, "Turn it off; bf16 works on a CPU.", "warning"))
    if args.tf32 and not (on_gpu and machine.tf32):
        what = machine.gpus[0].name if on_gpu else "A CPU"
        found.append(
            Problem(_ARGS + "tf32", f"{what} does not support tf32.", "Turn it off: it needs an Ampere GPU or newer.")
        )
    return found


def _device_problems(config: Config, machine: Machine) -> list[Problem]:
    found: list[Problem] = []
    wanted = config.model.device_map or ""
    if wanted.startswith("cuda"):
        index = int(wanted.partition(":")[2] or 0)
        if not machine.cuda:
            hint = "Use auto, which uses a GPU if there is one."
            found.append(
                Problem("model.device_map", f"The device map is '{wanted}', but this machine has no usable GPU.", hint)
            )
        elif index >= len(machine.gpus):
            last = len(machine.gpus) - 1
            message = f"The device map is '{wanted}', but the last GPU here is cuda:{last}."
            found.append(Problem("model.device_map", message, f"Use a number up to {last}."))
    count = config.num_processes
    if config.accelerate and count is not None:
        if machine.gpus and wanted != "cpu" and count > len(machine.gpus):
            message = f"The run has {count} processes, but this machine has {format_plural(len(machine.gpus), 'GPU')}."
            found.append(Problem("num_processes", message, "Use one process per GPU."))
        elif not machine.gpus and count > machine.cpu_count:
            message = (
                f"{count} processes share {format_plural(machine.cpu_count, 'core')} and will slow each other down."
            )
            found.append(Problem("num_processes", message, "Use fewer processes.", "warning"))
    return found


def find_sharding_problem(config: Config) -> Problem | None:
    """Return why the model can't be sharded with these settings, or None."""
    if config.model.quantize and config.model.bitsandbytes.load_in_8bit:
        return Problem(SHARDING_PATH, "A base model in 8 bits can't be sharded.", "Use 4 bits, or turn sharding off.")
    if config.lora.target_parameters:
        hint = "Empty target_parameters, or turn sharding off."
        return Problem(SHARDING_PATH, "Adapters on parameters do not work with sharding.", hint)
    if config.lora.trainable_token_indices:
        hint = "Empty trainable_token_indices, or turn sharding off."
        return Problem(SHARDING_PATH, "Trained tokens do not work with sharding.", hint)
    return None


def _team_problems(config: Config) -> list[Problem]:
    """Return what is missing or wrong in the settings of a run on several machines."""
    machines, rank = machine_count(config), config.machine_rank or 0
    if machines == 1:
        return []
    found: list[Problem] = []
    if rank >= machines:
        message = f"The rank of this machine is {rank}, but the run has {machines} machines."
        hint = f"Use 0 for the main machine, and another number up to {machines - 1} for each of the others."
        found.append(Problem("machine_rank", message, hint))
    if config.ablation.use_ablate:
        message = "A study does not train on several machines."
        found.append(Problem("num_machines", message, "Set the number of machines to 1, or turn the study off."))
    address, port = config.main_process_ip, config.main_process_port
    if address is None:
        message = f"The run has {machines} machines, but no address of the main machine."
        found.append(Problem("main_process_ip", message, "Enter the address at which the others reach it."))
    elif rank == 0 and not is_own_address(address):
        message = f"This is the main machine (rank 0), but '{address}' is not an address of this machine."
        # no error: behind a router the others use an address that no network card here has
        hint = "Correct the address or the rank, unless the other machines reach this one through a router."
        found.append(Problem("main_process_ip", message, hint, "warning"))
    if port is None:
        message = f"The run has {machines} machines, but no port of the main machine."
        hint = "Enter a free port of the main machine, for example 29500, the same on every machine."
        found.append(Problem("main_process_port", message, hint))
    elif rank == 0 and port < FIRST_UNPRIVILEGED_PORT:
        message = f"Port {port} is reserved for services of the system."
        found.append(Problem("main_process_port", message, f"Use a port from {FIRST_UNPRIVILEGED_PORT} on."))
    return found


def _quantization_problems(config: Config, machine: Machine) -> list[Problem]:
    if not config.model.quantize:
        return []
    if not machine.bitsandbytes:
        hint = "Run pip install -r requirements.txt again, or turn off quantize."
        return [Problem("model.quantize", "The package bitsandbytes can't be loaded on this machine.", hint)]
    bnb = config.model.bitsandbytes
    found = []
    on_gpu = machine.cuda and config.model.device_map != "cpu"
    if not on_gpu:
        message = "On a CPU, quantization saves memory but makes training several times slower."
        found.append(Problem("model.quantize", message, "Turn it off if the model fits without it.", "warning"))
    elif bnb.load_in_4bit and bnb.bnb_4bit_compute_dtype == "bfloat16" and not machine.bf16_gpu:
        message = f"{machine.gpus[0].name} does not support bfloat16."
        found.append(Problem("model.bitsandbytes.bnb_4bit_compute_dtype", message, "Use float16."))
    return found


def can_use_folder(folder: Path) -> bool:
    """Return whether this folder can be read, or can be created. Raises nothing."""
    there = _nearest_existing(folder)  # a folder that does not exist yet is created inside this one
    wanted = os.R_OK if there == folder else os.W_OK
    return os.access(there, wanted | os.X_OK) and there.is_dir()


def _nearest_existing(folder: Path) -> Path:
    return next(there for there in (folder, *folder.parents) if os.access(there, os.F_OK) or there == there.parent)


def _disk_problems(save_dir: Path) -> list[Problem]:
    there = _nearest_existing(save_dir)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        return [Problem("save_dir", f"The folder '{save_dir}' is not writable.", "Choose another folder.")]
    room = os.statvfs(there)
    if room.f_files and room.f_favail < NEEDED_DISK_FILES:
        message = f"The disk of '{save_dir}' can hold only {room.f_favail:,} more files (inode limit)."
        return [Problem("save_dir", message, "Delete files that you don't need, or choose another disk.")]
    free = shutil.disk_usage(there).free
    if free >= COMFORTABLE_DISK_BYTES:
        return []
    message = f"The disk of '{save_dir}' has {free / 1e6:,.0f} MB left."
    if free < NEEDED_DISK_BYTES:
        return [
            Problem("save_dir", message, f"A run needs at least {NEEDED_DISK_BYTES / 1e6:.0f} MB. Free some space.")
        ]
    return [Problem("save_dir", message, "The adapter of a larger model may not fit. Free some space.", "warning")]

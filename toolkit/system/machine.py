"""What this machine can do: cores, memory, GPUs, number formats, versions.

A probe in its own process finds out once, because it imports torch, which takes seconds. The result is kept in
save_dir/machine.json with a key (boot id, torch version, visible GPUs); it is probed again when the key changes.
Where the runs train on a cluster, its largest node is taken for the machine.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field, TypeAdapter

from toolkit.errors import RunError, ToolkitError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import parse_foreign_json, read_foreign_json
from toolkit.system.locks import boot_id
from toolkit.system.paths import PROJECT_ROOT
from toolkit.system.printable import format_bytes, format_plural

PROBE_DELAY_SECONDS = 3.0
"""Importing torch occupies a core for about as long; the app's first page comes first."""
PROBE_TIMEOUT_SECONDS = 180
FastProbe = Callable[[], bytes]
"""Returns the probe's output from a process that has already imported torch; b"" when there is none."""
logger = logging.getLogger(__name__)
_CLUSTER_KEY = ["cluster"]
"""The key of a cluster's node, whatever happens to this machine."""
_PROBE_LOCK = threading.Lock()


@dataclass(frozen=True)
class Gpu:
    """A CUDA GPU. capability: its compute capability, such as (9, 0). uuid: as CUDA says it; "" when unknown."""

    name: str
    memory_bytes: Annotated[int, Field(ge=0)]
    capability: tuple[int, int]
    uuid: str = ""


@dataclass(frozen=True)
class Machine:
    """What a machine can do.

    bf16_gpu, tf32: every GPU supports it. bf16_cpu: the processor has instructions for bf16 matrix products.
    bitsandbytes: the package can be loaded. versions: of the libraries, by package name.
    """

    cpu_count: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=1)]
    cuda: bool = False
    gpus: tuple[Gpu, ...] = ()
    bf16_gpu: bool = False
    tf32: bool = False
    bitsandbytes: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    bf16_cpu: bool = False

    @property
    def summary(self) -> str:
        """ "4 cores, 15.6 GiB" or "NVIDIA H200 (139.8 GiB), 16 cores"."""
        cores = format_plural(self.cpu_count, "core")
        if not self.gpus:
            return f"{cores}, {format_bytes(self.memory_bytes)}"
        first = self.gpus[0]
        count = f"{len(self.gpus)} x " if len(self.gpus) > 1 else ""
        return f"{count}{first.name} ({format_bytes(first.memory_bytes)}), {cores}"


_MACHINE = TypeAdapter(Machine)


def probe_machine(save_dir: Path, fast_probe: FastProbe | None = None) -> Machine:
    """Return this machine. Runs the probe, which takes seconds, if there is no valid result yet.

    fast_probe: tried before a new process is started. Raises RunError when the probe fails.
    """
    with _PROBE_LOCK:
        known = read_known_machine(save_dir)
        if known is not None:
            return known
        found = _run_probe(fast_probe)
        save_dir.mkdir(parents=True, exist_ok=True)
        _write_machine(save_dir, found, _machine_key())
        return found


def read_known_machine(save_dir: Path) -> Machine | None:
    """Return the result of the last probe; None when there is none or its key has changed. Never waits."""
    try:
        body = read_foreign_json(_machine_path(save_dir))
        is_valid = body["key"] in (_machine_key(), _CLUSTER_KEY)
        return _MACHINE.validate_python(body["machine"]) if is_valid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_cluster_machine(save_dir: Path, probed: bytes | None) -> None:
    """Take a cluster's node for the machine of this folder, or forget it. probed: what the node's probe printed.

    Raises ValueError or OSError.
    """
    if probed is None:
        body = read_foreign_json(_machine_path(save_dir)) if _machine_path(save_dir).is_file() else {}
        if body.get("key") == _CLUSTER_KEY:
            _machine_path(save_dir).unlink(missing_ok=True)
        return
    machine = _MACHINE.validate_python(parse_foreign_json(probed.splitlines()[-1]))
    save_dir.mkdir(parents=True, exist_ok=True)
    _write_machine(save_dir, machine, _CLUSTER_KEY)


def probe_machine_in_background(save_dir: Path, fast_probe: FastProbe | None = None) -> None:
    """Run the probe in a thread after a few seconds, unless there is a valid result."""
    if read_known_machine(save_dir) is None:
        timer = threading.Timer(PROBE_DELAY_SECONDS, _probe_quietly, args=(save_dir, fast_probe))
        timer.name, timer.daemon = "machine probe", True
        timer.start()


def _probe_quietly(save_dir: Path, fast_probe: FastProbe | None = None) -> None:
    try:
        probe_machine(save_dir, fast_probe)
    except (ToolkitError, OSError) as error:
        logger.warning("The probe of this machine failed: %s", error)


def _run_probe(fast_probe: FastProbe | None) -> Machine:
    argv = [sys.executable, "-m", "toolkit.worker.probe"]
    hint = "Check that torch is installed. `python -m toolkit.worker.probe` shows the error."
    try:
        output = fast_probe() if fast_probe else b""
        if not output:
            output = subprocess.run(
                argv,
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_SECONDS,
                check=True,
            ).stdout
        return _MACHINE.validate_python(
            parse_foreign_json(output.splitlines()[-1])
        )  # libraries may print lines before it
    except subprocess.TimeoutExpired as error:
        raise RunError(f"Examining this machine took more than {PROBE_TIMEOUT_SECONDS} s.", hint) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise RunError(f"Examining this machine failed: {last[0][:300]}", hint) from error
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise RunError(f"Examining this machine failed: {error}.", hint) from error


def _machine_path(save_dir: Path) -> Path:
    return save_dir / "machine.json"


def _write_machine(save_dir: Path, machine: Machine, key: list[str]) -> None:
    body = {"schema": 1, "key": key, "machine": asdict(machine)}
    durable_write(_machine_path(save_dir), json.dumps(body, indent=1))


def _machine_key() -> list[str]:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return [boot_id(), torch, os.environ.get("CUDA_VISIBLE_DEVICES", "")]


def free_memory_bytes() -> int:
    """Return the memory in bytes that is still available on this machine or in this container."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        cache = next(line for line in (group / "memory.stat").open() if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return free
    # the page cache counts as used in the container, but the kernel gives it back when memory is needed
    return min(free, int(limit) - used + int(cache.split()[1])) if limit.isdigit() else free


def training_cores() -> int:
    """Return the number of cores for training. One stays free for the app if the machine has more than three."""
    cores = usable_cores()
    return cores - 1 if cores > 3 else cores


def usable_cores() -> int:
    """Return the number of cores that this process may use, given its affinity and the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, int(quota) // int(period))) if quota.isdigit() else cores


def is_own_address(address: str) -> bool:
    """Return whether this machine has the IP address. A host name is not looked up, and counts as its own."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return True
    try:
        with socket.socket(socket.AF_INET6 if found.version == 6 else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return not found.is_unspecified

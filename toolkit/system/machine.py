"""What this machine can do, found out once by a probe in a process of its own and kept in save_dir/machine.json.

The probe imports torch, which takes seconds: the app asks `machine_if_known` and goes on without an answer. Knows
nothing of settings: what follows from a machine is `preflight.py`'s.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from toolkit.errors import RunError, ToolkitError
from toolkit.system.durable import durable_write
from toolkit.system.locks import boot_id
from toolkit.system.paths import PROJECT_ROOT

PROBE_DELAY_SECONDS = 3.0  # importing torch takes a core for as long
PROBE_TIMEOUT_SECONDS = 180
FastProbe = Callable[[], bytes]
"""The probe's output from a process that has imported torch already; b"" where there is none."""
logger = logging.getLogger(__name__)
_PROBE_LOCK = threading.Lock()


@dataclass(frozen=True)
class Gpu:
    """capability: CUDA compute capability, e.g. (9, 0)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """bf16_gpu, tf32: whether every GPU can. bf16_cpu: whether the processor has instructions for such products.
    bitsandbytes: whether the package loads. versions: by package."""

    cpu_count: int
    memory_bytes: int
    cuda: bool = False
    gpus: tuple[Gpu, ...] = ()
    bf16_gpu: bool = False
    tf32: bool = False
    bitsandbytes: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    bf16_cpu: bool = False

    @property
    def words(self) -> str:
        """ "4 cores, 16 GB" or "NVIDIA H200 (141 GB), 16 cores"."""
        cores = f"{self.cpu_count} core{'s' if self.cpu_count != 1 else ''}"
        if not self.gpus:
            return f"{cores}, {self.memory_bytes / 1e9:.0f} GB"
        first = self.gpus[0]
        count = f"{len(self.gpus)} x " if len(self.gpus) > 1 else ""
        return f"{count}{first.name} ({first.memory_bytes / 1e9:.0f} GB), {cores}"


def probe_machine(save_dir: Path, quicker: FastProbe | None = None) -> Machine:
    """This machine; runs the probe when it is not known yet (seconds). Raises RunError when the probe fails."""
    with _PROBE_LOCK:
        known = read_known_machine(save_dir)
        if known is not None:
            return known
        found = _run_probe(quicker)
        save_dir.mkdir(parents=True, exist_ok=True)
        durable_write(
            _machine_path(save_dir),
            json.dumps({"schema": 1, "key": _machine_key(), "machine": asdict(found)}, indent=1),
        )
        return found


def read_known_machine(save_dir: Path) -> Machine | None:
    """This machine if it was looked at since it was started and since torch was installed; never waits."""
    try:
        body = json.loads(_machine_path(save_dir).read_bytes())
        return _parse_machine(body["machine"]) if body["key"] == _machine_key() else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def probe_machine_in_background(save_dir: Path, quicker: FastProbe | None = None) -> None:
    """Find out in a thread, unless it is known; a few seconds from now, so that the app's first page comes first."""
    if read_known_machine(save_dir) is None:
        timer = threading.Timer(PROBE_DELAY_SECONDS, _probe_quietly, args=(save_dir, quicker))
        timer.name, timer.daemon = "machine probe", True
        timer.start()


def _probe_quietly(save_dir: Path, quicker: FastProbe | None = None) -> None:
    try:
        probe_machine(save_dir, quicker)
    except (ToolkitError, OSError) as error:
        logger.warning("this machine can't be looked at: %s", error)


def _run_probe(quicker: FastProbe | None) -> Machine:
    argv = [sys.executable, "-m", "toolkit.worker.probe"]
    hint = "Run `python -m toolkit.worker.probe` to see why; is torch installed?"
    try:
        said = quicker() if quicker else b""
        if not said:
            said = subprocess.run(
                argv,
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_SECONDS,
                check=True,
            ).stdout
        return _parse_machine(json.loads(said.splitlines()[-1]))
    except subprocess.TimeoutExpired as error:
        raise RunError(f"Looking at this machine took more than {PROBE_TIMEOUT_SECONDS} s.", hint) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise RunError(f"This machine can't be looked at: {last[0][:300]}", hint) from error
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise RunError(f"This machine can't be looked at: {error}.", hint) from error


def _parse_machine(body: dict[str, Any]) -> Machine:
    gpus = tuple(
        Gpu(str(gpu["name"]), int(gpu["memory_bytes"]), (int(gpu["capability"][0]), int(gpu["capability"][1])))
        for gpu in body.get("gpus", ())
    )
    return Machine(
        cpu_count=int(body["cpu_count"]),
        memory_bytes=int(body["memory_bytes"]),
        cuda=bool(body.get("cuda")),
        gpus=gpus,
        bf16_gpu=bool(body.get("bf16_gpu")),
        tf32=bool(body.get("tf32")),
        bitsandbytes=bool(body.get("bitsandbytes")),
        versions={str(name): str(value) for name, value in body.get("versions", {}).items()},
        bf16_cpu=bool(body.get("bf16_cpu")),
    )


def _machine_path(save_dir: Path) -> Path:
    return save_dir / "machine.json"


def _machine_key() -> list[str]:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return [boot_id(), torch, os.environ.get("CUDA_VISIBLE_DEVICES", "")]


def free_memory_bytes() -> int:
    """Memory that this machine, or this container, can still give."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        cache = next(line for line in (group / "memory.stat").open() if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return free
    return min(free, int(limit) - used + int(cache.split()[1])) if limit.isdigit() else free


def training_cores() -> int:
    """Cores for training: one stays free for the app, except where that would be half of the machine."""
    cores = usable_cores()
    return cores - 1 if cores > 3 else cores


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, int(quota) // int(period))) if quota.isdigit() else cores

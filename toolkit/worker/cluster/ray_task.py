"""What this project asks of Ray: a connection, the living nodes, and a task that runs a program on one of them.

Nothing secret is passed: argument lists and the few variables of a task hold ids, paths and numbers.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from toolkit.cluster.resources import ClusterNode
from toolkit.errors import RunError
from toolkit.system.paths import PROJECT_ROOT

INSTALL_RAY = "Install it on this machine and on every node: pip install -r requirements-cluster.txt"
START_RAY = "Start it with `ray start --head`, check the address, and see docs/cluster.md. Then press Resume."
CONNECT_SECONDS = 10.0


@contextmanager
def connect_to_ray(address: str) -> Iterator[Any]:
    """Connect to the cluster, and yield the module `ray`. Raises RunError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 40 s each; Ray's default of 20 takes minutes
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed.", INSTALL_RAY, "missing_package") from error
    # pages of a dead node's state, which would hide in the log what the training printed
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    where = f"at {address}" if address and address != "auto" else "on this machine"
    try:
        _check_listening(address)
        ray.init(address=address or "auto", log_to_driver=False, configure_logging=False, logging_level="ERROR")
    except Exception as error:  # Ray raises a dozen kinds of errors, some of no type of its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RunError(f"No Ray cluster answers {where}: {first}", START_RAY, "cluster_unreachable") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise OSError at once if nothing listens at a host and port, for which Ray would wait."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def list_cluster_nodes(ray: Any) -> list[ClusterNode]:
    """Return the living nodes that offer cores or GPUs."""
    found = []
    for node in ray.nodes():
        offers = node.get("Resources") or {}
        one = ClusterNode(int(offers.get("CPU", 0)), int(offers.get("GPU", 0)), int(offers.get("memory", 0)))
        if node.get("Alive") and (one.cpus or one.gpus):
            found.append(one)
    return found


def submit_program(ray: Any, module: str, arguments: list[str], variables: Mapping[str, str], **options: Any) -> Any:
    """Run `python -m module ...` once as a Ray task; return the reference to what it prints, as text.

    variables: added to the node's own, with FTK_NODE, its address. The program's stdin is a pipe that breaks when the
    task ends. options: of the task.
    """
    run_program = ray.remote(max_retries=0, **options)(_make_task())
    return run_program.remote([module, *arguments], dict(variables), str(PROJECT_ROOT))


def _make_task() -> Callable[[list[str], dict[str, str], str], str]:
    """Return the task. Ray sends a nested function by its code, so a node needs this project only for the program."""

    def run_program(arguments: list[str], variables: dict[str, str], root: str) -> str:
        import os
        import subprocess
        import sys

        import ray

        variables["FTK_NODE"] = ray.util.get_node_ip_address()
        with subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=root if os.path.isdir(root) else None,  # noqa: PTH112 - this code travels, with these imports only
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            return process.stdout.read().decode(errors="replace")

    return run_program


def asks_for_token() -> bool:
    """Return whether this process has shown the cluster a token, as every other one must. Call it when connected."""
    raylet = import_module("ray._raylet")  # compiled, without types
    return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN)

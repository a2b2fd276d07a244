"""The options --launcher and --address, which decide where the runs of an output folder train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.cli.console import DEFAULT_SAVE_DIR, SaveDirOption, err, out
from toolkit.cluster.choice import OPEN_CLUSTER_WARNING, choose_cluster, choose_this_machine
from toolkit.cluster.setting import read_cluster
from toolkit.errors import ConfigError, Problem
from toolkit.system.printable import format_plural

LauncherName = Literal["local", "ray"]
LauncherOption = Annotated[
    LauncherName | None,
    typer.Option(help="Train on this machine or on a Ray cluster from now on, in the app too. At first: local."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Ray cluster of --launcher ray. By default, the one on this machine."),
]


def choose_launcher(
    launcher: Annotated[
        LauncherName | None, typer.Argument(metavar="local|ray", help="Where to train. By default, print the choice.")
    ] = None,
    address: AddressOption = None,
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Let the runs of a folder train on this machine or on a Ray cluster from now on, in the app too."""
    make_launcher_choice(launcher, address)(save_dir.absolute())
    cluster = read_cluster(save_dir.absolute())
    where = "this machine" if cluster is None else f"the Ray cluster at {cluster.address}"
    out.print(f"Runs train on {where}.")


def make_launcher_choice(launcher: LauncherName | None, address: str | None) -> Callable[[Path], None]:
    """Return a function that lets the runs of a folder train where the options say; None leaves that as it is.

    Raises ConfigError for an address without a cluster; the function raises RunError.
    """
    if address is not None and launcher != "ray":
        raise ConfigError([Problem("", f"--address {address} has no effect without --launcher ray.", "Add it.")])

    def choose(save_dir: Path) -> None:
        if launcher == "local":
            choose_this_machine(save_dir)
        elif launcher == "ray":
            out.print("Looking at the Ray cluster ...")
            cluster, view = choose_cluster(save_dir, address or "auto")
            at_once = format_plural(cluster.slots, "run")
            out.print(f"Ray cluster at {cluster.address}: {view.summary}. {at_once} at the same time.")
            if not view.asks_for_token:
                err.print(f"warning: {OPEN_CLUSTER_WARNING}")

    return choose

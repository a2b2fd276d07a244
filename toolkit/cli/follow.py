"""`python -m toolkit follow`: copies the measurements of runs to trackers, and tells people when a run ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.console import DEFAULT_SAVE_DIR, SaveDirOption, out
from toolkit.errors import RunError
from toolkit.follow.follower import Follower, follow_runs, hold_follower
from toolkit.follow.notifications import ADDRESS_VARIABLE, read_notification_addresses
from toolkit.follow.trackers import choose_trackers
from toolkit.runs.run_dir import open_run


def follow(
    run: Annotated[str, typer.Argument(help="ID of the only run to follow. Without it, all runs are followed.")] = "",
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that TensorBoard is started with.")
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Address of an MLflow server, or a folder of its own.")
    ] = None,
    wandb: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for offline runs of Weights & Biases.")
    ] = None,
    project: Annotated[
        str, typer.Option(help="Name of the experiment or project in MLflow and Weights & Biases.")
    ] = "finetuning-toolkit",
    save_dir: SaveDirOption = DEFAULT_SAVE_DIR,
) -> None:
    """Copy the measurements of RUN, or of all runs, to TensorBoard, MLflow or W&B, and tell people when a run ends.

    Addresses to tell, an https:// webhook or any of apprise, come from the environment variable FTK_NOTIFY.
    """
    save_dir = save_dir.absolute()
    trackers = choose_trackers(tensorboard, mlflow, wandb, project)
    addresses = read_notification_addresses()
    if not trackers and not addresses:
        raise RunError(
            "No tracker is named and nobody is to be told.",
            f"Add --tensorboard DIR, --mlflow URI or --wandb DIR, or set {ADDRESS_VARIABLE}.",
        )
    only = open_run(save_dir, run).id if run else ""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    with hold_follower(save_dir):
        out.print(f"Following {f'run {only}' if only else f'the runs in {save_dir}'}. End it with Ctrl-C.")
        follow_runs(Follower(save_dir, trackers, addresses, only), ended.is_set, ended.wait)

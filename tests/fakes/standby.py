"""The standby worker of a supervisor, for tests and benchmarks that look at it."""

from __future__ import annotations

from toolkit.lifecycle.launcher import ClusterLauncher, ForkLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.services.spare_process import SpareProcess


def standby_of(supervisor: Supervisor) -> SpareProcess | None:
    """Return the standby worker; None if it is switched off (FTK_SPARE=0)."""
    launcher = supervisor.launcher
    local = launcher.local if isinstance(launcher, ClusterLauncher) else launcher
    return local.spare if isinstance(local, ForkLauncher) else None

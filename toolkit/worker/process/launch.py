"""Start the processes of a run as children of this one, through accelerate.

accelerate's own ClusterConfig checks the settings that the supervisor wrote into the run, and writes the file that its
launcher reads. The machines of a run meet before their launchers start, because those can neither be stopped nor say
what they wait for.
"""

from __future__ import annotations

from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command, launch_command_parser

from toolkit.runs.run_dir import RunDir
from toolkit.runs.worker_process import TRAINING_MODULE
from toolkit.worker.process.meeting import Meeting
from toolkit.worker.process.stop import StopSignal


def meet_other_machines(run: RunDir, stop: StopSignal) -> None:
    """Write the launcher's file, and wait until all machines of the run are there. Raises StopRequested or RunError."""
    settings = ClusterConfig.from_yaml_file(str(run.accelerate_path))
    settings.to_yaml_file(str(run.accelerate_path))
    if settings.num_machines > 1:
        address, port = str(settings.main_process_ip), int(settings.main_process_port or 0)
        Meeting(address, port, settings.machine_rank, settings.num_machines, settings.num_processes, stop).hold()


def launch_processes(run: RunDir) -> None:
    """Start the processes and wait for them. Raises the launcher's own error when one of them failed."""
    command = ["--config_file", str(run.accelerate_path), "-m", TRAINING_MODULE, run.id]
    launch_command(launch_command_parser().parse_args(command))

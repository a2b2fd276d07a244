"""The server of the fine-tuning API: it supervises the runs of its save_dir, as the app does, and answers requests."""

from __future__ import annotations

from pathlib import Path

from starlette.types import ASGIApp

from toolkit.api.api_desk import ApiDesk
from toolkit.api.api_process import API_SERVICE, describe_api_access, find_api, load_api_key
from toolkit.api.api_routes import build_api_app
from toolkit.api.files.file_store import FileStore
from toolkit.api.jobs.job_checks import JobChecker
from toolkit.api.jobs.job_intake import JobIntake
from toolkit.api.jobs.job_store import JobStore
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.services.warm_client import ask_warm_worker
from toolkit.studies.methods.advance import advance_studies
from toolkit.system.printable import clean_terminal_text
from toolkit.worker.serving.http_server import ServiceAddress, run_and_exit, serve_application


def serve_api(save_dir: Path, port: int, model: str) -> None:
    """Serve until Ctrl-C, then end the process. port: 0 takes any free one. model: stands for OpenAI's own models.

    Raises RunError: the key can't be used.
    """
    place = ServiceAddress(save_dir, load_api_key(save_dir), port, {"model": model})
    run_and_exit(lambda: serve_application(API_SERVICE, place, lambda _: make_application(place, model)))


def make_application(place: ServiceAddress, model: str) -> ASGIApp:
    """Return the application; its supervisor and its checks begin with the server."""
    save_dir = place.save_dir
    supervisor = Supervisor(save_dir, on_run_end=advance_studies)
    files, jobs = FileStore(save_dir), JobStore(save_dir)
    intake = JobIntake(jobs, JobChecker(save_dir, files, ask_warm_worker), supervisor.check_now)

    def begin() -> None:
        supervisor.start()
        intake.start()
        info = find_api(save_dir)
        if info is not None:
            print(clean_terminal_text(describe_api_access(info)), flush=True)

    desk = ApiDesk(save_dir, files, jobs, intake, model, supervisor.check_now)
    return build_api_app(desk, place.token, begin, supervisor.stop)

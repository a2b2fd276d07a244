"""python -m toolkit.worker.serve: the inference engine as a process of its own, for this machine alone.

Environment: FTK_SAVE_DIR, FTK_ENGINE_RUN (the run whose base model is loaded), FTK_SERVICE_TOKEN, and optionally
FTK_ENGINE_PORT (default: any free one) and FTK_ENGINE_IDLE_MINUTES (default 30; 0 is never). The server answers at
once, the model loads meanwhile; ending the process gives the memory back. Announces itself as `services/service_process.py` says;
one engine a save_dir. Exit status: 0 ended as asked, 2 wrong environment, 3 another engine is there.
"""

from __future__ import annotations

import os
import sys

from toolkit.services.engine_process import ENGINE_SERVICE
from toolkit.worker.serving.engine_host import EngineHost
from toolkit.worker.serving.http_server import ServiceAddress, run_and_exit, serve_application
from toolkit.worker.serving.routes import build_engine_app

ENGINE_IDLE_MINUTES = 30.0


def main() -> int:
    try:
        run_id = os.environ["FTK_ENGINE_RUN"]
        place = ServiceAddress.read(os.environ.get("FTK_ENGINE_PORT"), run=run_id)
        idle_seconds = 60 * float(os.environ.get("FTK_ENGINE_IDLE_MINUTES") or ENGINE_IDLE_MINUTES)
    except (KeyError, ValueError) as error:
        print(f"The environment is not complete: {error}", file=sys.stderr)
        return 2
    return serve_application(
        ENGINE_SERVICE,
        place,
        lambda leave: build_engine_app(EngineHost(place.save_dir, run_id, idle_seconds, leave), place.token),
    )


if __name__ == "__main__":
    run_and_exit(main)

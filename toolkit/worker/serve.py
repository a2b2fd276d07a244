"""Entry point `python -m toolkit.worker.serve`: the inference engine as a process, reachable from this machine only.

Environment: FTK_SAVE_DIR, FTK_ENGINE_RUN (the run whose base model is loaded), FTK_SERVICE_TOKEN, and optionally
FTK_ENGINE_PORT (default: any free port) and FTK_ENGINE_IDLE_MINUTES (default: 30; 0: never end). The server answers at
once, while the model is loading; ending the process frees the memory. It announces itself as described in
`services/service_process.py`; there is one engine per save_dir. Exit status: 0 after a shutdown, 2 the environment is
invalid or the port is taken, 3 another engine serves this save_dir.
"""

from __future__ import annotations

import os
import sys

from toolkit.services.engine_process import ENGINE_SERVICE
from toolkit.worker.serving.engine_host import EngineHost
from toolkit.worker.serving.http_server import ServiceAddress, run_and_exit, serve_application
from toolkit.worker.serving.routes import build_engine_app

ENGINE_IDLE_MINUTES = 30.0
"""Minutes without a request after which the engine ends, to free its memory."""


def main() -> int:
    try:
        run_id = os.environ["FTK_ENGINE_RUN"]
        place = ServiceAddress.read(os.environ.get("FTK_ENGINE_PORT"), run=run_id)
        idle_seconds = 60 * float(os.environ.get("FTK_ENGINE_IDLE_MINUTES") or ENGINE_IDLE_MINUTES)
    except (KeyError, ValueError) as error:
        print(f"An environment variable is missing or invalid: {error}", file=sys.stderr)
        return 2
    return serve_application(
        ENGINE_SERVICE,
        place,
        lambda leave: build_engine_app(EngineHost(place.save_dir, run_id, idle_seconds, leave), place.token),
    )


if __name__ == "__main__":
    run_and_exit(main)

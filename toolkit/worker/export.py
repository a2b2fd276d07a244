"""python -m toolkit.worker.export RUN FORM [check]: makes one export of a run and has it replayed in a fresh process.

Holds exports/<form>.lock for life and is the one writer of exports/<form>.json. An export is staged, committed and only
then played: what is on the disk is what was checked. With `check` the export that is there is played again. Exit
status: 0 made and played, whatever the verdict; 1 not, with the reason in the file.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from toolkit.errors import RunError, ToolkitError
from toolkit.export.export_state import (
    ADAPTER_HASH_KEY,
    certificate_path,
    commit_hash,
    export_folder,
    export_lock_path,
    find_export_form,
    write_export_progress,
)
from toolkit.runs.end_reasons import explain_exception
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import commit_dir, scratch_dir, verify_commit
from toolkit.system.locks import WorkerLock
from toolkit.worker.process import libraries

logger = logging.getLogger(__name__)


class ExportProgress:
    """Says how far the export is."""

    def __init__(self, run: RunDir, form: str) -> None:
        self._run, self._form = run, form

    def __call__(self, phase: str, fraction: float) -> None:
        write_export_progress(self._run, self._form, "running", phase, fraction)

    def end(self, state: str, message: str = "", hint: str = "") -> None:
        write_export_progress(self._run, self._form, state, "", 1.0, message, hint)


def main(run_id: str, form: str, check_only: bool) -> int:
    faulthandler.enable()
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    find_export_form(form)
    run.exports_dir.mkdir(exist_ok=True)
    with WorkerLock(export_lock_path(run, form), run=run.id):
        progress = ExportProgress(run, form)
        try:
            if not check_only:
                make_export(run, form, progress)
            replay_export(run, form, progress)
        except ToolkitError as error:
            progress.end("failed", error.message, error.hint)
            return 1
        except Exception as error:
            logger.exception("export %s of %s", form, run.id)
            why = explain_exception(type(error).__name__, str(error))
            progress.end("failed", why.message, why.hint)
            return 1
        progress.end("made")
    return 0


def make_export(run: RunDir, form: str, progress: ExportProgress) -> None:
    """Build the export aside and commit it as exports/<form>/. Raises ToolkitError with the reason to refuse."""
    progress("verifying the adapter", 0.05)
    verify_commit(run.adapter_dir, own=False)
    adapter = commit_hash(run.adapter_dir)
    progress("loading libraries", 0.1)
    libraries.import_libraries()
    from toolkit.worker.exporting import package

    with scratch_dir(run.exports_dir / f".new-{form}") as staging:
        package.build_export(run, read_run_config(run), form, staging, progress)
        progress("writing to disk", 0.55)
        certificate_path(run, form).unlink(missing_ok=True)
        facts = {"kind": "export", "form": form, "run": run.id, ADAPTER_HASH_KEY: adapter}
        commit_dir(staging, export_folder(run, form), facts)


def replay_export(run: RunDir, form: str, progress: ExportProgress) -> None:
    """Play the export in a process that knows nothing of how it was made. Raises RunError when it can't be played."""
    progress("checking it against the golden prompts", 0.65)
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.worker.replay", run.id, form],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        return
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        said = json.loads(last)
        raise RunError(f"The export can't be checked: {said['message']}", said["hint"])
    except (ValueError, KeyError, TypeError) as error:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        hint = f"Its log, exports/{form}.log in the run's folder, has the details."
        raise RunError(f"The export can't be checked: {reason}.", hint) from error


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["check"]))
    except ToolkitError as error:
        raise SystemExit(f"{error}") from error

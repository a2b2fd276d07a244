"""python -m toolkit.worker.export RUN FORM [check]: makes one export of a run and has it replayed in a fresh process.

An export is staged, committed and only then replayed, so that the files on the disk are those that were checked. With
`check` the existing export is replayed again. Exit status: 0 made and replayed, whatever the verdict; 1 failed, with
the reason in exports/<form>.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from toolkit.errors import RunError, ToolkitError
from toolkit.export.export_forms import find_export_form
from toolkit.export.export_state import ADAPTER_HASH_KEY, certificate_path, commit_hash, export_folder, export_job
from toolkit.export.prompt_contract import read_reference_contract
from toolkit.runs.end_reasons import explain_error
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.background_job import StateFileReporter, job_main
from toolkit.system.durable import commit_dir, scratch_dir, verify_commit
from toolkit.system.private_files import restrict_new_files
from toolkit.worker.exporting import gguf_play
from toolkit.worker.process import libraries

REPLAY_WORKER = "toolkit.worker.replay"


def main(run_id: str, form: str, check_only: bool) -> int:
    """Make and check the export. Return the exit status. Raises RunError: no such run or form, or already running."""
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    find_export_form(form)
    run.exports_dir.mkdir(exist_ok=True)

    def work(progress: StateFileReporter) -> str:
        if not check_only:
            make_export(run, form, progress)
        replay_export(run, form, progress)
        play_file(run, form, progress)
        return ""

    job = export_job(run, form)
    return job_main(job, StateFileReporter(job), work, explain_error, run=run.id)


def make_export(run: RunDir, form: str, progress: StateFileReporter) -> None:
    """Build the export in a staging folder and commit it as exports/<form>/. Raises ToolkitError with the reason."""
    progress("verifying the adapter", 0.05)
    verify_commit(run.adapter_dir, require_own_signature=False)
    adapter = commit_hash(run.adapter_dir)
    progress("loading libraries", 0.1)
    libraries.import_libraries()
    from toolkit.worker.exporting import package

    with scratch_dir(run.exports_dir / f".new-{form}") as staging:
        package.build_export(run, read_run_config(run), form, staging, progress)
        progress("writing to disk", 0.55)
        # the old verdict goes first: after a crash here the new export counts as unchecked
        certificate_path(run, form).unlink(missing_ok=True)
        facts = {"kind": "export", "form": form, "run": run.id, ADAPTER_HASH_KEY: adapter}
        commit_dir(staging, export_folder(run, form), facts)


def replay_export(run: RunDir, form: str, progress: StateFileReporter) -> None:
    """Replay the export in a process that has nothing in memory of how it was made. Raises RunError."""
    progress("checking it against the golden prompts", 0.65)
    done = subprocess.run(
        [sys.executable, "-m", REPLAY_WORKER, run.id, form],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        return
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        reported = json.loads(last)
        raise RunError(f"The export can't be checked: {reported['message']}", reported["hint"])
    except (ValueError, KeyError, TypeError) as error:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        hint = f"Its log, exports/{form}.log in the run's folder, has the details."
        raise RunError(f"The export can't be checked: {reason}.", hint) from error


def play_file(run: RunDir, form: str, progress: StateFileReporter) -> None:
    """Have llama.cpp play a GGUF file, where it is installed. Its figures are no part of the verdict."""
    contract = read_reference_contract(run)
    if contract is not None and gguf_play.can_play(run, form):
        progress("playing it in llama.cpp", 0.9)
        gguf_play.play_export(run, form, contract)


if __name__ == "__main__":
    restrict_new_files()
    try:
        raise SystemExit(main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["check"]))
    except ToolkitError as error:
        raise SystemExit(f"{error}") from error

"""python -m toolkit.worker.push RUN: pushes one checked export to the Hub, as exports/hub.request.json says.

The token is the Hub's own login or HF_TOKEN. Not sent: paths of this machine, the settings file that contains them,
and, unless asked for, the golden prompts. Exit status: 0 when the Hub has the export, 1 when it failed, with the
reason in exports/hub.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.config import Config
from toolkit.errors import RunError, ToolkitError
from toolkit.export.adapter_archive import CARD_FILE, SETTINGS_FILE, copy_exported_files
from toolkit.export.evaluation_section import evaluation_section
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_state import export_folder
from toolkit.export.hub_push import HubPush, push_job, read_push_request
from toolkit.export.model_card import CHART_FILE, model_card
from toolkit.export.prompt_contract import CONTRACT_FILE, read_contract
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.background_job import StateFileReporter, job_main
from toolkit.system.durable import COMMIT_NAME, scratch_dir, verify_commit
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.private_files import restrict_new_files

UNPUBLISHED_FILES = (COMMIT_NAME, SETTINGS_FILE)
_ADAPTER_CONFIG = "adapter_config.json"


def main(run_id: str) -> int:
    """Push the requested export. Return the exit status. Raises RunError: no such run, or a push is running."""
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    job = push_job(run)
    return job_main(
        job,
        StateFileReporter(job),
        lambda progress: push_export(run, read_push_request(run), progress),
        _explain_failure,
        run=run.id,
    )


def _explain_failure(error: Exception) -> tuple[str, str]:
    first_line = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return f"The push failed: {first_line}", "Try again. Files that have arrived are not sent twice."


def push_export(run: RunDir, request: HubPush, progress: StateFileReporter) -> str:
    """Push and return the repository's address. Raises ToolkitError: no login, no right to write, or no network."""
    progress("connecting to the Hub", 0.1)
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise RunError("There is no login for the Hub.", "Run `hf auth login`, or set HF_TOKEN, then push again.")
    with scratch_dir(run.exports_dir / ".push") as folder:
        gather_published_files(run, request, folder)
        api = HfApi(library_name="finetuning-toolkit")
        with _explain_hub_errors(request.repo):
            address = api.create_repo(request.repo, private=request.private, exist_ok=True)
            progress("uploading the files", 0.4)
            api.upload_folder(repo_id=request.repo, folder_path=folder, commit_message="Upload a fine-tuned model")
    return str(address)


def gather_published_files(run: RunDir, request: HubPush, folder: Path) -> None:
    """Write what is published into `folder`. Raises ToolkitError when others could not use it."""
    source = export_folder(run, request.form)
    verify_commit(source, require_own_signature=False)
    copy_exported_files(source, folder)
    for name in UNPUBLISHED_FILES:
        (folder / name).unlink(missing_ok=True)
    _refuse_local_base(folder)
    contract = read_contract(folder)
    base = contract.base.model_copy(update={"name": _without_folder(contract.base.name)})
    outgoing = contract.model_copy(update={"base": base, **({} if request.golden else {"golden": ()})})
    (folder / CONTRACT_FILE).write_text(outgoing.dump(), encoding="utf-8")
    card = model_card(
        run,
        _without_local_paths(read_run_config(run)),
        EXPORT_FORMS[request.form],
        outgoing,
        chart_file=CHART_FILE if (folder / CHART_FILE).exists() else None,
        location=request.repo,
        figures=evaluation_section(run),
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _without_local_paths(config: Config) -> Config:
    """Return the settings for the card: names of folders and files without their paths."""
    model = config.model.model_copy(update={"hf_model_ckpt": _without_folder(str(config.model.hf_model_ckpt))})
    data = config.data.model_copy(update={"path": _without_folder(str(config.data.path))})
    return config.model_copy(update={"model": model, "data": data})


def _without_folder(name: str) -> str:
    return Path(name).name if _is_local(name) else name


def _refuse_local_base(folder: Path) -> None:
    path = folder / _ADAPTER_CONFIG
    if not path.exists():
        return
    base = str(read_foreign_json(path)["base_model_name_or_path"])
    if _is_local(base):
        message = f"The adapter's base model is a folder on this machine ({Path(base).name}): others can't load it."
        raise RunError(message, "Push the merged model instead.")


def _is_local(name: str) -> bool:
    return name.startswith(("/", ".", "~", "bundled:")) or Path(name).exists()


@contextmanager
def _explain_hub_errors(repo: str) -> Iterator[None]:
    """Turn what the Hub's library raises into a RunError with the next step."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise RunError("This machine is set to work offline (HF_HUB_OFFLINE).", "Unset it to push.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status not in (401, 403):
            raise
        hint = "Log in with a token that may write: `hf auth login`, or HF_TOKEN."
        raise RunError(f"The Hub does not let this login write to {repo}.", hint) from error
    except Exception as error:
        # by name: which HTTP client the Hub's library uses, and so which classes it raises, differs by its version
        if not any(kind.__name__ in ("TransportError", "ConnectionError") for kind in type(error).__mro__):
            raise
        raise RunError("The Hub can't be reached.", "Connect this machine to the network, then push again.") from error


if __name__ == "__main__":
    restrict_new_files()
    try:
        raise SystemExit(main(sys.argv[1]))
    except ToolkitError as error:
        raise SystemExit(f"{error}") from error

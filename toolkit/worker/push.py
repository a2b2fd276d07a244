"""python -m toolkit.worker.push RUN: sends one checked export to the hub, as exports/hub.request.json says.

The token is the hub's own login or HF_TOKEN. Left at home: paths of this machine, the settings file that holds them,
and, unless asked for, the golden prompts. Writes exports/hub.json; exit status 0 when the hub has it, else 1.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path

from toolkit.config import Config
from toolkit.errors import RunError, ToolkitError
from toolkit.export.evaluation_section import evaluation_section
from toolkit.export.export_state import EXPORT_FORMS, export_folder, export_lock_path, unpack, write_export_progress
from toolkit.export.hub_push import HUB_FORM, HubPush, read_push_request
from toolkit.export.model_card import model_card
from toolkit.export.prompt_contract import CONTRACT_FILE, read_contract
from toolkit.runs.run_dir import RunDir, open_run, read_run_config
from toolkit.system.durable import COMMIT_NAME, scratch_dir, verify_commit
from toolkit.system.locks import WorkerLock

logger = logging.getLogger(__name__)
UNPUBLISHED_FILES = (COMMIT_NAME, "finetuning-toolkit.yml")
_ADAPTER = "adapter_config.json"


def main(run_id: str) -> int:
    run = open_run(Path(os.environ["FTK_SAVE_DIR"]), run_id)
    with WorkerLock(export_lock_path(run, HUB_FORM.key), run=run.id):
        try:
            address = push_export(run, read_push_request(run))
        except ToolkitError as error:
            write_export_progress(run, HUB_FORM.key, "failed", "", 1.0, error.message, error.hint)
            return 1
        except Exception as error:
            logger.exception("push of %s", run.id)
            message = f"The push failed: {(str(error).splitlines() or [type(error).__name__])[0][:300]}"
            write_export_progress(
                run, HUB_FORM.key, "failed", "", 1.0, message, "Try again; what has arrived is not sent twice."
            )
            return 1
        write_export_progress(run, HUB_FORM.key, "made", "", 1.0, address)
    return 0


def push_export(run: RunDir, asked: HubPush) -> str:
    """The repository's address. Raises ToolkitError in words for a missing login, a refusal, or no network."""
    write_export_progress(run, HUB_FORM.key, "running", "reaching the hub", 0.1)
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise RunError("There is no login for the hub.", "Run `hf auth login`, or set HF_TOKEN, then push again.")
    with scratch_dir(run.exports_dir / ".push") as folder:
        gather_published_files(run, asked, folder)
        api = HfApi(library_name="finetuning-toolkit")
        with _explain_hub_errors(asked.repo):
            address = api.create_repo(asked.repo, private=asked.private, exist_ok=True)
            write_export_progress(run, HUB_FORM.key, "running", "sending the files", 0.4)
            api.upload_folder(repo_id=asked.repo, folder_path=folder, commit_message="Upload a fine-tuned model")
    return str(address)


def gather_published_files(run: RunDir, asked: HubPush, folder: Path) -> None:
    """Put what goes out into `folder`. Raises ToolkitError when others could not use it."""
    source = export_folder(run, asked.form)
    verify_commit(source, own=False)
    archive = next(iter(source.glob("*.zip")), None)
    if archive is not None:
        unpack(archive, folder)
    else:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    for name in UNPUBLISHED_FILES:
        (folder / name).unlink(missing_ok=True)
    _refuse_local_base(folder)
    contract = read_contract(folder)
    base = contract.base.model_copy(update={"name": _without_folder(contract.base.name)})
    outgoing = contract.model_copy(update={"base": base, **({} if asked.golden else {"golden": ()})})
    (folder / CONTRACT_FILE).write_text(outgoing.dump(), encoding="utf-8")
    picture = "curves.png" if (folder / "curves.png").exists() else None
    config = _without_local_paths(read_run_config(run))
    form, evaluated = EXPORT_FORMS[asked.form], evaluation_section(run)
    card = model_card(run, config, form, outgoing, picture=picture, place=asked.repo, evaluated=evaluated)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _without_local_paths(config: Config) -> Config:
    """The settings as the card tells them: names of folders and files, not where they lie."""
    model = config.model.model_copy(update={"hf_model_ckpt": _without_folder(str(config.model.hf_model_ckpt))})
    data = config.data.model_copy(update={"path": _without_folder(str(config.data.path))})
    return config.model_copy(update={"model": model, "data": data})


def _without_folder(name: str) -> str:
    return Path(name).name if _is_local(name) else name


def _refuse_local_base(folder: Path) -> None:
    path = folder / _ADAPTER
    if not path.exists():
        return
    base = str(json.loads(path.read_bytes())["base_model_name_or_path"])
    if _is_local(base):
        message = f"The adapter's base model is a folder of this machine ({Path(base).name}): others can't load it."
        raise RunError(message, "Push the merged model instead.")


def _is_local(name: str) -> bool:
    return name.startswith(("/", ".", "~", "bundled:")) or Path(name).exists()


class _explain_hub_errors:
    """What the hub's library raises, in the user's words."""

    def __init__(self, repo: str) -> None:
        self._repo = repo

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        if isinstance(error, OfflineModeIsEnabled):
            raise RunError("This machine is set to work offline (HF_HUB_OFFLINE).", "Unset it to push.") from error
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                hint = "Log in with a token that may write: `hf auth login`, or HF_TOKEN."
                raise RunError(f"The hub does not let this login write to {self._repo}.", hint) from error
        # the hub's library brings an HTTP client of its own, by changing names
        if error is not None and any(k.__name__ in ("TransportError", "ConnectionError") for k in type(error).__mro__):
            raise RunError("The hub can't be reached.", "Connect this machine, then push again.") from error


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

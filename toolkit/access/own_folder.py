"""The folder of each person who signs in, below the app's output folder, and which paths lie outside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from toolkit.access.people import Person
from toolkit.config import BUNDLED
from toolkit.errors import SignInError
from toolkit.system.durable import durable_write

PEOPLE_FOLDER = "users"
PERSON_FILE = "person.json"
"""Tells the owner of the machine whose folder it is."""


def prepare_person_folder(home: Path, person: Person) -> Path:
    """Return the person's folder below the app's output folder `home`; create it. Raises SignInError."""
    folder = home / PEOPLE_FOLDER / person.folder_name
    about = {"issuer": person.issuer, "subject": person.subject, "email": person.email, "name": person.name}
    written = json.dumps(about, ensure_ascii=False, indent=1)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / PERSON_FILE
        if not file.exists() or file.read_text(encoding="utf-8") != written:
            durable_write(file, written)
    except (OSError, ValueError) as error:
        message = f"Your folder {folder} can't be used: {error}."
        raise SignInError(message, "The owner of the app has to correct this, for example free some space.") from error
    return folder


def list_person_folders(home: Path) -> list[Path]:
    """Return the folders of all people who have used the app."""
    return sorted(file.parent for file in (home / PEOPLE_FOLDER).glob(f"*/{PERSON_FILE}"))


def is_path_outside(text: str, folders: Iterable[Path]) -> bool:
    """Return whether `text` names something on this machine that is in none of the folders.

    False for what ships with the toolkit, and for what can only be a name on the Hugging Face Hub.
    """
    if not text or text.startswith(BUNDLED) or "\0" in text:
        return False
    try:
        path = Path(text).expanduser()
        parts = path.parts
        is_local = path.is_absolute() or ".." in parts or len(parts) > 2 or path.exists() or path.is_symlink()
        if not is_local and not text.startswith((".", "~")):
            return False
        found = path.resolve()
        return not any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError):  # a loop of links, an unknown user, a name that is too long
        return True

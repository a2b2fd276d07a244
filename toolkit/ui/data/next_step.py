"""What is missing before the next step can be taken, in plain sentences. Pure but for the draft it reads."""

from __future__ import annotations

from toolkit.data.examples.renderers import chat_problems
from toolkit.data.examples.templates import template_problems
from toolkit.data.storage.background_open import StillOpeningError
from toolkit.data.table import Table
from toolkit.runs.status import RunStatus
from toolkit.ui.data.split_view import split_problems
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_with_data


def data_missing(table: Table | None) -> list[str]:
    """Why the Data page is not done yet; empty when it is."""
    if table is None:
        return [
            "Wait until the data is open."
            if isinstance(workspace.table_error(), StillOpeningError)
            else "Choose a dataset."
        ]
    config = config_with_data(workspace.current_draft()["data"])
    if config is None:
        return ["Correct the settings marked above."]
    every = [
        *template_problems(config, table.columns, table.label),
        *chat_problems(config.data, table),
        *split_problems(table, config),
    ]
    found = [problem for problem in every if problem.severity == "error"]
    words = {
        "data.prompt": "Correct the prompt template.",
        "data.prompt_stub": "Correct the completion template.",
        "data.messages": "Choose conversations that can be trained on, or templates.",
        "data.use_chat_template": "Switch the chat template on: conversations need it.",
    }
    return list(dict.fromkeys(words.get(p.path, "Choose sizes that fit the data.") for p in found))


def playground_missing(status: RunStatus) -> list[str]:
    """Why a run can't be talked to yet; empty when it can."""
    if status.adapter_ready:
        return []
    if status.has_ended:
        return ["This run left no adapter: choose another one, or start it again."]
    return ["The run has to finish, or be stopped; either leaves an adapter."]

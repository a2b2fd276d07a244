"""What is missing before the user can go on to the next page, as sentences for the screen."""

from __future__ import annotations

from toolkit.data.examples.renderers import chat_problems
from toolkit.data.examples.templates import template_problems
from toolkit.data.storage.background_open import StillOpeningError
from toolkit.data.table import Table
from toolkit.ui.data.split_view import split_problems
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.current_dataset import config_with_data


def data_missing(table: Table | None) -> list[str]:
    """Return what has to be corrected on the Data page; empty when it is complete."""
    if table is None:
        return [
            "Wait until the dataset is open."
            if isinstance(workspace.table_error(), StillOpeningError)
            else "Choose a dataset."
        ]
    config = config_with_data(workspace.current_draft()["data"])
    if config is None:
        return ["Correct the settings marked above."]
    problems = [
        *template_problems(config, table.columns, table.label),
        *chat_problems(config.data, table),
        *split_problems(table, config),
    ]
    sentences = {
        "data.prompt": "Correct the prompt template.",
        "data.prompt_stub": "Correct the completion template.",
        "data.messages": "Choose a column with valid conversations, or use templates.",
        "data.use_chat_template": "Turn on the chat template: conversations need it.",
    }
    errors = [problem for problem in problems if problem.severity == "error"]
    return list(dict.fromkeys(sentences.get(error.path, "Choose split sizes that fit the data.") for error in errors))

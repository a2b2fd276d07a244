"""The disposable process that examines a dataset: `python -m toolkit.data.doctor.examine_task`.

Takes a request as JSON on standard input, binds itself to its limits, and leaves the findings (a folder `findings`),
how far it is (progress.json) and report.json in the folder it was given. It never touches anything else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine
from toolkit.data.findings import write_report
from toolkit.data.read_options import MEMORY, confine
from toolkit.data.readers.read_file import explain, report
from toolkit.data.table import load_table
from toolkit.data.task_process import FINDINGS, PROGRESS, ExamineRequest, text_bytes
from toolkit.errors import DataError


def main() -> int:
    """0 when the request was answered, with findings or with a reason; anything else is a death."""
    request = ExamineRequest(**json.load(sys.stdin))
    folder = Path(request.folder)

    def tell(share: float, words: str) -> None:
        aside = folder / f".{PROGRESS}"
        aside.write_text(json.dumps({"share": share, "words": words}))
        aside.replace(folder / PROGRESS)

    confine(text_bytes(Path(request.table)))
    try:
        found = examine(load_table(Path(request.table)), DataConfig.model_validate(request.data), tell)
        (folder / FINDINGS).mkdir()
        write_report(found, folder / FINDINGS)
    except DataError as error:
        report(folder, error=explain(error))
    except MemoryError:
        message = f"Checking the data takes more than {MEMORY >> 30} GB of memory."
        report(folder, error=explain(DataError(message, "Training is not affected. Check a part of the data.")))
    else:
        report(folder, error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The disposable process that examines a dataset: `python -m toolkit.data.doctor.examine_task`.

Takes a request as JSON on standard input, binds itself to its limits, and leaves the findings (a folder `findings`),
how far it is (progress.json) and report.json in the folder it was given. It never touches anything else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine_dataset
from toolkit.data.findings import write_findings_report
from toolkit.data.read_options import READER_MEMORY_BYTES, limit_process_resources
from toolkit.data.readers.read_file import data_error_as_dict, write_task_report
from toolkit.data.table import load_table
from toolkit.data.task_process import EXAMINE_PROGRESS_FILE, FINDINGS_FOLDER, ExamineRequest, parquet_content_bytes
from toolkit.errors import DataError


def main() -> int:
    """0 when the request was answered, with findings or with a reason; anything else is a death."""
    request = ExamineRequest(**json.load(sys.stdin))
    folder = Path(request.folder)

    def tell(share: float, words: str) -> None:
        aside = folder / f".{EXAMINE_PROGRESS_FILE}"
        aside.write_text(json.dumps({"share": share, "words": words}))
        aside.replace(folder / EXAMINE_PROGRESS_FILE)

    limit_process_resources(parquet_content_bytes(Path(request.table)))
    try:
        found = examine_dataset(load_table(Path(request.table)), DataConfig.model_validate(request.data), tell)
        (folder / FINDINGS_FOLDER).mkdir()
        write_findings_report(found, folder / FINDINGS_FOLDER)
    except DataError as error:
        write_task_report(folder, error=data_error_as_dict(error))
    except MemoryError:
        message = f"Checking the data takes more than {READER_MEMORY_BYTES >> 30} GB of memory."
        write_task_report(
            folder, error=data_error_as_dict(DataError(message, "Training is not affected. Check a part of the data."))
        )
    else:
        write_task_report(folder, error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())

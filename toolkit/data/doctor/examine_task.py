"""The child process that checks a dataset: `python -m toolkit.data.doctor.examine_task`.

It leaves the findings as the folder `findings` in the folder of its request (ExamineRequest).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine_dataset
from toolkit.data.findings import write_findings_report
from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import READER_MEMORY_BYTES, limit_process_resources
from toolkit.data.table import load_table
from toolkit.data.task_process import FINDINGS_FOLDER, ExamineRequest, parquet_content_bytes, run_task
from toolkit.errors import DataError


def _examine(content: dict[str, Any], report_progress: DataProgressReporter) -> None:
    request = ExamineRequest(**content)
    limit_process_resources(parquet_content_bytes(Path(request.table)))
    table = load_table(Path(request.table))
    report = examine_dataset(table, DataConfig.model_validate(request.data), report_progress)
    folder = Path(request.folder) / FINDINGS_FOLDER
    folder.mkdir()
    write_findings_report(report, folder)


def main() -> int:
    """Check the dataset that the request on standard input names."""
    message = f"Checking the data needs more than {READER_MEMORY_BYTES >> 30} GiB of memory."
    return run_task(_examine, DataError(message, "Training is not affected. Check a smaller part of the data."))


if __name__ == "__main__":
    sys.exit(main())

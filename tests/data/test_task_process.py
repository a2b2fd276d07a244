"""What all child processes that work on data have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.data.child_process import make_table_in_child
from toolkit.errors import DataError
from toolkit.system.paths import PROJECT_ROOT


def test_a_child_process_does_not_import_pandas(tmp_path: Path) -> None:
    """pyarrow would, for the first list: half the time of reading a small file."""
    script = (
        "import pyarrow as pa, sys\nfrom toolkit.data.task_process import run_task\n"
        "from toolkit.errors import DataError\n"
        "def work(request, report_progress):\n"
        "    pa.array(['a'], pa.string())\n"
        "    raise DataError(f'{pa.array([1]).to_pylist()}, pandas: {\"pandas\" in sys.modules}')\n"
        "sys.exit(run_task(work))"
    )
    (tmp_path / "light.py").write_text(script)
    environment = {"PYTHONPATH": f"{tmp_path}:{PROJECT_ROOT}"}
    with pytest.raises(DataError, match=r"\[1\], pandas: False"):
        make_table_in_child("light", json.dumps({"folder": str(tmp_path)}), tmp_path, 60, environment)

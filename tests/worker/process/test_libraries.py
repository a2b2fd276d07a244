"""What the processes with the training libraries may import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from toolkit.worker.process.libraries import forbid_hub_kernels


def test_the_package_that_runs_code_of_the_hub_is_not_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    assert importlib.util.find_spec("kernels") is not None
    monkeypatch.setitem(sys.modules, "kernels", sys)  # removed again after the test
    forbid_hub_kernels()
    assert importlib.util.find_spec("kernels") is None
    with pytest.raises(ImportError):
        __import__("kernels")

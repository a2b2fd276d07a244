"""Hold the code to its plan: arrows between packages, heavy imports, sizes, names, banned calls, and the docs.

What is measured, `benchmarks/structure.py` measures; what is allowed, this file says.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from benchmarks import structure
from benchmarks.structure import imports, nodes, package, product_files
from toolkit.system.paths import PROJECT_ROOT as ROOT

HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate"}
SCREEN = {"streamlit", "plotly"}
ROOT_MODULES = {"errors", "field_types", "config"}
"""Every package may import these modules of the root."""

MAY_IMPORT = {
    "ui/evaluate": "data data/readers data/storage evaluation evaluation/statistics runs system ui/elements ui/people "
    "ui/runs ui/workspace",
    "ui/configure": "data forecast runs services settings studies studies/methods system ui/data ui/elements ui/forms "
    "ui/frame ui/people ui/workspace",
    "ui/runs": "cluster evaluation/statistics export lifecycle runs services settings system ui/data ui/elements "
    "ui/examples ui/forms ui/frame ui/people ui/workspace",
    "ui/studies": "evaluation evaluation/statistics runs settings studies studies/methods system ui/elements "
    "ui/evaluate ui/forms ui/frame ui/runs ui/workspace",
    "worker": "cluster data data/examples data/readers data/shapes demo_data evaluation export forecast lifecycle runs "
    "services settings system worker/answering worker/exporting worker/models worker/process worker/questions "
    "worker/serving worker/tokens worker/training",
    "ui/data": "data data/doctor data/examples data/readers data/storage settings system ui/elements ui/examples "
    "ui/forms ui/frame ui/workspace",
    "ui/playground": "data data/examples data/storage evaluation/statistics runs services settings system ui/elements "
    "ui/examples ui/forms ui/frame ui/workspace",
    "worker/training": "data/examples evaluation export lifecycle runs settings system worker/answering "
    "worker/checkpoints worker/compute worker/models worker/process worker/questions worker/tokens",
    "worker/exporting": "export runs system worker/answering worker/models worker/tokens",
    "ui/examples": "data data/examples services settings system ui/elements ui/frame ui/workspace",
    "worker/questions": "data data/examples services settings system worker/models worker/process worker/serving "
    "worker/tokens",
    "worker/answering": "data data/examples evaluation export runs system worker/models worker/process worker/serving "
    "worker/tokens",
    "ui/frame": "access cluster data evaluation forecast lifecycle runs studies/methods system ui/elements ui/people "
    "ui/workspace",
    "ui/people": "access settings system ui/elements",
    "ui/forms": "settings ui/elements ui/workspace",
    "api": "api/files api/jobs lifecycle runs services studies/methods system worker/serving",
    "api/jobs": "api/files data data/doctor data/examples data/storage forecast runs services settings system "
    "worker/serving",
    "api/files": "data/storage system worker/serving",
    "follow": "runs system",
    "cli": "access api cluster data data/doctor data/examples data/readers data/storage evaluation "
    "evaluation/statistics export follow forecast lifecycle runs services settings studies studies/methods system",
    "worker/serving": "data data/examples runs services system worker/checkpoints worker/constraints worker/models "
    "worker/process worker/tokens",
    "ui/workspace": "access data data/doctor data/examples data/storage forecast runs services settings studies system "
    "ui/elements ui/people",
    "studies/methods": "data/storage forecast runs settings studies system",
    "studies": "data/examples evaluation evaluation/statistics lifecycle runs settings system",
    "lifecycle": "cluster data runs services system",
    "export": "data/examples evaluation evaluation/statistics runs system",
    "forecast": "data forecast/costs runs services settings system",
    "worker/cluster": "cluster runs system worker worker/process",
    "worker/compute": "worker/tokens",
    "worker/checkpoints": "runs system worker/process worker/tokens",
    "ui/elements": "data/storage evaluation/statistics runs services system",
    "data/doctor": "data data/examples data/storage system",
    "services": "data runs settings system",
    "evaluation": "data data/examples data/storage demo_data evaluation/statistics runs system",
    "worker/process": "runs",
    "worker/constraints": "system worker/process",
    "worker/models": "runs settings system",
    "worker/tokens": "data data/examples runs system worker/models",
    "data/storage": "data data/readers system",
    "runs": "cluster data data/examples settings system",
    "forecast/costs": "data data/examples settings",
    "data/readers": "data data/examples data/shapes data/threads",
    "data/threads": "data data/examples data/shapes",
    "data/shapes": "data data/examples",
    "data/examples": "data system",
    "evaluation/statistics": "runs system",
    "cluster": "system",
    "access": "system",
    "system": "",
    "settings": "system",
    "data": "system",
}
"""Each package and the packages that it may import besides itself; `docs/architecture.md` explains the table."""


def test_arrows_between_packages_point_one_way() -> None:
    found = structure.package_imports()
    wrong = {
        name: sorted(targets - set(MAY_IMPORT.get(name, "").split()) - {""}) for name, targets in found.items() if name
    }
    assert not {name: targets for name, targets in wrong.items() if targets}
    assert not structure.package_cycles()
    assert not structure.module_cycles()


def test_the_table_of_arrows_names_no_arrow_that_is_gone() -> None:
    found = structure.package_imports()
    gone = {name: sorted(set(targets.split()) - found[name]) for name, targets in MAY_IMPORT.items()}
    assert not {name: targets for name, targets in gone.items() if targets}


def test_the_root_imports_no_package() -> None:
    for file in structure.modules():
        if package(file) == "" and file.stem in ROOT_MODULES:
            own = {name for name in imports(file) if name.startswith("toolkit.")}
            assert all(name.split(".")[1] in ROOT_MODULES for name in own), file


def in_package(file: Path, name: str) -> bool:
    """Whether a file lies in that package of `toolkit/`; "" is `toolkit/` itself."""
    return (ROOT / "toolkit" / name) in file.parents


def test_heavy_libraries_stay_in_the_worker_and_screens_in_ui() -> None:
    wrong = []
    for file in product_files():
        top = {name.split(".")[0] for name in imports(file)}
        if not in_package(file, "worker") and top & HEAVY:
            wrong.append(f"{file.relative_to(ROOT)} imports {sorted(top & HEAVY)}")
        if in_package(file, "") and not in_package(file, "ui") and top & SCREEN:
            wrong.append(f"{file.relative_to(ROOT)} imports {sorted(top & SCREEN)}")
    assert not wrong, "\n".join(wrong)


def test_no_module_outside_the_worker_loads_torch() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in product_files()
        if in_package(file, "") and not in_package(file, "worker") and file.name not in ("__init__.py", "__main__.py")
    ]
    modules += ["toolkit.worker.serve", "toolkit.worker.warm"]  # they listen before they import it, which takes seconds
    script = "import importlib, sys\n"
    script += f"for m in {modules!r}: importlib.import_module(m)\nprint(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_what_is_imported_is_required() -> None:
    """What merely comes with another package may go with its next version."""
    required = {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in
                (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")}  # fmt: skip
    only_on_clusters = {
        file.name for file in product_files() if "ray" in {name.split(".")[0] for name in imports(file)}
    }
    assert only_on_clusters == {"ray_task.py"}
    assert "\nray>=" in (ROOT / "requirements-cluster.txt").read_text()
    packages = packages_distributions()
    imported = {name.split(".")[0] for file in product_files() for name in imports(file)}
    imported -= {*sys.stdlib_module_names, "toolkit", "ray"}
    assert len(imported) > 30
    missing = {name for name in imported
               if not any(one.lower().replace("_", "-") in required for one in packages.get(name, [name]))}  # fmt: skip
    assert not missing, f"requirements.txt lacks {sorted(missing)}"


def test_packages_are_small_enough_to_be_read() -> None:
    folders = Counter(package(file) for file in structure.modules())
    assert not {name: count for name, count in folders.items() if count > 12}


def test_files_and_functions_are_small_enough_to_be_read() -> None:
    counts = structure.line_counts()
    assert not {str(file): count for file, count in counts.items() if count > 400}
    assert sorted(counts.values())[int(len(counts) * 0.9)] <= 250
    long = [(file.name, *each) for file in product_files() for each in structure.function_lengths(file) if each[1] > 50]
    assert not long


def test_the_formatter_decides_everywhere_but_on_tables() -> None:
    skips = structure.format_skips()
    assert not [f"{file.name}:{at}" for file, at, table in skips if not table]
    assert len(skips) < 60


def test_names_are_unique_and_say_what_is_done() -> None:
    assert not structure.doubled_names()
    assert structure.one_word_share() < 0.2


@pytest.mark.parametrize("folder", structure.COMMENTED)
def test_comments_give_reasons_where_the_order_of_steps_is_not_plain(folder: str) -> None:
    assert structure.comment_density(folder) >= 3


def test_no_exception_is_swallowed() -> None:
    swallowed = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in product_files()
        for node in nodes(file)
        if isinstance(node, ast.ExceptHandler) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
    ]
    assert not swallowed, "\n".join(swallowed)


BANNED_CALLS = {
    "os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load",
    "torch.load", "st.html", "load_from_disk",
}  # fmt: skip
BANNED_ARGUMENTS = {("shell", True), ("trust_remote_code", True), ("unsafe_allow_html", True), ("weights_only", False)}


def test_nothing_dangerous_is_called() -> None:
    wrong = []
    for file in product_files():
        for node in nodes(file):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
            # the generators in demo_data/ format their own phrases: no user text comes near them
            formats_data = (
                not in_package(file, "demo_data")
                and name.endswith(".format")
                and not isinstance(getattr(node.func, "value", None), ast.Constant)
            )
            if name in BANNED_CALLS or given & BANNED_ARGUMENTS or formats_data:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert not wrong, "\n".join(wrong)


def test_packages_are_empty_and_the_root_is_a_docstring() -> None:
    packages = sorted(ROOT.glob("toolkit/**/__init__.py"))
    assert len(packages) >= 8
    for file in packages:
        body = nodes(file)[0].body
        if file.parent.name == "toolkit":
            assert len(body) == 1
            assert isinstance(body[0], ast.Expr)
        else:
            assert body == [], file


def test_the_architecture_page_has_a_line_for_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z_/]+)/?` \|", page, re.M))
    real = {package(file) for file in structure.modules()} - {""}
    assert not real - {name.strip("/") for name in named}
    assert not {name.strip("/") for name in named} - real - {"assets", "presets", "demo_data", "ui/static"}


def test_the_architecture_page_names_every_arrow() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `([a-z_/]+)` \| .* \| ([^|]*) \|$", page, re.M)
    named = {name: set(targets.split(", ")) - {"none"} for name, targets in cells}
    wrong = {name: ", ".join(sorted(targets.split())) for name, targets in MAY_IMPORT.items()
             if named.get(name) != set(targets.split())}  # fmt: skip
    assert not wrong, "docs/architecture.md, last column of these packages"


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.parametrize("command", ["streamlit run app.py", "pytest"])
def test_readme_opens_with_the_two_commands(command: str) -> None:
    first = (ROOT / "README.md").read_text()[:1500]
    assert command in first

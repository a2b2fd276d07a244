"""Holds the house to its plan: arrows between rooms, heavy imports, budgets, bans, and the README's map."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate"}
SCREEN = {"streamlit", "plotly"}
FLOOR = {"errors", "legible", "rules", "config", "validation"}
MAY_IMPORT = {
    "errors": set(),
    "legible": set(),
    "rules": {"errors", "config"},  # config for its types alone, under TYPE_CHECKING
    "schema_types": {"rules"},
    "schema_added": {"schema_types"},
    "config": {"rules", "schema_types", "schema_added"},
    "validation": {"errors", "rules", "config"},
    "choices": {"config"},
    "forecast": FLOOR | {"choices", "data", "forecast", "runs"},
    "ablation": FLOOR | {"forms.spec", "forms.draft", "forms.written"},  # what a setting is and how it is written
    "assets": {"assets"},
    "evaluation": FLOOR | {"evaluation", "data", "runs", "assets"},
    "data": FLOOR | {"data"},
    "forms": FLOOR | {"forms", "ablation", "runs.configfile"},
    "runs": FLOOR | {"runs", "data"},
    "client": FLOOR | {"choices", "runs"},
    "warm": FLOOR | {"runs"},
    "cli": FLOOR | {"ablation", "cli_evaluate", "client", "data", "forecast.settle", "forms", "runs"},
    "cli_evaluate": FLOOR | {"data", "evaluation", "runs"},
    "__main__": {"cli"},
    "ui": FLOOR | {"ablation", "choices", "client", "data", "evaluation", "forecast", "forms", "runs", "ui", "warm"},
    "pages": FLOOR | {"ablation", "client", "data", "evaluation", "forecast", "forms", "runs", "ui", "warm"},
    "app": {"ui", "runs", "errors"},
    "worker": FLOOR
    | {"worker", "assets", "choices", "data", "evaluation"}
    | {f"runs.{name}" for name in ("rundir", "events", "lock", "explain", "configfile", "durable", "service")}
    | {f"runs.{name}" for name in ("contract", "certificate", "exports", "card", "recipes", "status", "hub")}
    | {f"runs.{name}" for name in ("checkpoints", "resume", "fork_server", "freshness", "autopilot", "answerers")}
    | {"runs.engine_process", "runs.warm_process"},  # what the two services are called and announce
}
MAX_LINES, MAX_FUNCTION = 250, 50


def product_files() -> list[Path]:
    files = [ROOT / "app.py", *ROOT.glob("pages/*.py"), *ROOT.glob("toolkit/**/*.py")]
    assert len(files) > 40, "the sweep over the product's files found too few of them"
    return sorted(files)


def room(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "toolkit" else parts[1]


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_arrows_point_one_way() -> None:
    wrong = []
    for file in product_files():
        if file.name == "__init__.py":
            continue
        for name in imports(file):
            if not name.startswith("toolkit.") or name == "toolkit.__doc__":
                continue
            target = name.removeprefix("toolkit.").split(".")
            allowed = MAY_IMPORT[room(file)]
            if target[0] not in allowed and ".".join(target[:2]) not in allowed:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_in_the_worker_and_screens_in_ui() -> None:
    wrong = []
    for file in product_files():
        top = {name.split(".")[0] for name in imports(file)}
        if room(file) != "worker" and top & HEAVY:
            wrong.append(f"{file.relative_to(ROOT)} imports {sorted(top & HEAVY)}")
        if room(file) not in ("ui", "pages", "app") and top & SCREEN:
            wrong.append(f"{file.relative_to(ROOT)} imports {sorted(top & SCREEN)}")
    assert not wrong, "\n".join(wrong)


def test_no_module_outside_the_worker_loads_torch() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in product_files()
        if room(file) not in ("worker", "pages", "app", "__main__") and file.name != "__init__.py"
    ]
    script = "import importlib, sys\n"
    script += f"for m in {modules!r}: importlib.import_module(m)\nprint(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_what_is_imported_is_required() -> None:
    """What merely comes with another package may go with its next version."""
    required = {re.split(r"[<>=\[ ]", line)[0].lower().replace("_", "-") for line in
                (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")}  # fmt: skip
    packages = packages_distributions()
    imported = {name.split(".")[0] for file in product_files() for name in imports(file)}
    imported -= {*sys.stdlib_module_names, "toolkit"}
    assert len(imported) > 30
    missing = {name for name in imported
               if not any(one.lower().replace("_", "-") in required for one in packages.get(name, [name]))}  # fmt: skip
    assert not missing, f"requirements.txt lacks {sorted(missing)}"


def test_budgets() -> None:
    over = []
    for file in product_files():
        text = file.read_text()
        if len(text.splitlines()) > MAX_LINES:
            over.append(f"{file.relative_to(ROOT)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    over.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not over, "\n".join(over)


def test_no_exception_is_swallowed() -> None:
    swallowed = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in product_files()
        for node in ast.walk(ast.parse(file.read_text()))
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
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
            # the generators in assets/ format their own phrases: no user text comes near them
            formats_data = (
                room(file) != "assets"
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
        body = ast.parse(file.read_text()).body
        if file.parent.name == "toolkit":
            assert len(body) == 1
            assert isinstance(body[0], ast.Expr)
        else:
            assert body == [], file


def test_readme_map_names_every_file() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"## The map.*?```\n(.*?)```", readme, re.S)
    assert block, "README.md has no map"
    text = block.group(1)
    named = set(re.findall(r"[\w-]+\.py", text))
    real = {file.name for file in product_files() if file.name != "__init__.py"}
    assert not real - named, f"missing from the README's map: {sorted(real - named)}"
    assert not named - real, f"in the README's map and not in the tree: {sorted(named - real)}"


@pytest.mark.parametrize("command", ["streamlit run app.py", "pytest"])
def test_readme_opens_with_the_two_commands(command: str) -> None:
    first = (ROOT / "README.md").read_text()[:1500]
    assert command in first

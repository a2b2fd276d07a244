"""Measure the structure of the code: sizes, names, cycles, comments. `python -m benchmarks.structure` prints the table.

`tests/test_architecture.py` asserts the same figures.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

from toolkit.system.paths import PROJECT_ROOT

COMMENTED = ("worker/training", "worker/compute", "runs", "lifecycle")
"""Packages where the order of steps or a number is often not plain: 3 to 5 comments in 100 lines."""
PUBLIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def product_files() -> list[Path]:
    """Every module of the product, packages' own `__init__.py` included."""
    return sorted([PROJECT_ROOT / "app.py", *PROJECT_ROOT.glob("pages/*.py"), *PROJECT_ROOT.glob("toolkit/**/*.py")])


def modules() -> list[Path]:
    """Every module of `toolkit/` without `__init__.py` and the generators of the demo data."""
    found = [file for file in PROJECT_ROOT.glob("toolkit/**/*.py") if file.name != "__init__.py"]
    return sorted(file for file in found if package(file) != "demo_data")


def package(file: Path) -> str:
    """The package of a module of `toolkit/`, as a path: "data/readers"; "" for the root."""
    parent = file.relative_to(PROJECT_ROOT / "toolkit").parent.as_posix()
    return "" if parent == "." else parent


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    """The syntax tree of a module as a list, which begins with the module itself."""
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


@functools.cache
def imports(file: Path) -> list[str]:
    """The dotted names that a module imports, anywhere in it."""
    found = []
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@functools.cache
def module_of(name: str) -> Path | None:
    """The file of the module of `toolkit/` that a dotted import name means, or None."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        file = PROJECT_ROOT.joinpath(*parts[:end]).with_suffix(".py")
        if parts[0] == "toolkit" and file.is_file():
            return file
    return None


def import_graph() -> dict[Path, set[Path]]:
    """Which module of `toolkit/` imports which."""
    graph = {}
    for file in modules():
        targets = {found for name in imports(file) if (found := module_of(name)) is not None}
        graph[file] = targets - {file}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def package_imports() -> dict[str, set[str]]:
    """Which package of `toolkit/` imports which; `__main__` only starts the command line."""
    graph: dict[str, set[str]] = defaultdict(set)
    for file, targets in import_graph().items():
        if file.name != "__main__.py":
            graph[package(file)] |= {package(target) for target in targets} - {package(file)}
    return graph


def module_cycles() -> list[list[str]]:
    return cycles({str(file): {str(target) for target in targets} for file, targets in import_graph().items()})


def package_cycles() -> list[list[str]]:
    return cycles(package_imports())


def definitions(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The public functions and classes at the top level of a module."""
    body = nodes(file)[0].body  # type: ignore[attr-defined]
    return [node for node in body if isinstance(node, PUBLIC) and not node.name.startswith("_")]


def doubled_names() -> dict[str, list[str]]:
    """Public names that stand in two modules or more; `main` is the entry point of every process."""
    where = defaultdict(list)
    for file in modules():
        for node in definitions(file):
            where[node.name].append(str(file.relative_to(PROJECT_ROOT)))
    return {name: files for name, files in where.items() if len(files) > 1 and name != "main"}


def one_word_share() -> float:
    """The share of public functions whose name is a single word."""
    names = [node.name for file in modules() for node in definitions(file) if isinstance(node, FUNCTION)]
    return sum("_" not in name for name in names) / len(names)


def function_lengths(file: Path) -> list[tuple[str, int]]:
    functions = [node for node in nodes(file) if isinstance(node, FUNCTION)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]


def line_counts() -> dict[Path, int]:
    return {file: len(file.read_text(encoding="utf-8").splitlines()) for file in modules()}


def format_skips() -> list[tuple[Path, int, bool]]:
    """Every `# fmt: skip`: file, line, and whether it stands on a table, a statement of literal data."""
    found = []
    for file in product_files():
        text = file.read_text(encoding="utf-8")
        if "# fmt: skip" not in text:
            continue
        statements = [node for node in nodes(file) if isinstance(node, ast.stmt)]
        for at, line in enumerate(text.splitlines(), 1):
            if line.rstrip().endswith("# fmt: skip"):
                ending = [node for node in statements if node.end_lineno == at]
                found.append((file, at, any(_is_table(node) for node in ending)))
    return found


def _is_table(node: ast.stmt) -> bool:
    value = getattr(node, "value", None)
    return isinstance(node, ast.Assign | ast.AnnAssign | ast.Return) and isinstance(
        value, ast.Dict | ast.List | ast.Tuple | ast.Set
    )


def comment_density(folder: str) -> float:
    """Comments in 100 lines of a package."""
    comments = lines = 0
    for file in (PROJECT_ROOT / "toolkit" / folder).glob("*.py"):
        text = file.read_text(encoding="utf-8")
        lines += len(text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT and "fmt:" not in token.string for token in tokens)
    return 100 * comments / lines


def table() -> list[tuple[str, str, str]]:
    """(measure, value, goal)."""
    counts = sorted(line_counts().values())
    folders = Counter(package(file) for file in modules())
    readme = len((PROJECT_ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    density = ", ".join(f"{folder} {comment_density(folder):.1f}" for folder in COMMENTED)
    return [
        ("most modules in one folder", str(max(folders.values())), "12"),
        ("cycles of modules / of packages", f"{len(module_cycles())} / {len(package_cycles())}", "0 / 0"),
        ("modules", str(len(counts)), "about 295"),
        ("lines of toolkit/ without assets and demo data", f"{sum(counts):,}", "about 35,500"),
        ("lines a file, p90 / max", f"{counts[int(len(counts) * 0.9)]} / {counts[-1]}", "250 / 400"),
        ("longest function", str(max(n for file in modules() for _, n in function_lengths(file))), "50"),
        (
            "`# fmt: skip`, of them not on tables",
            f"{len(skips := format_skips())}, {sum(not t for *_, t in skips)}",
            "60, 0",
        ),
        ("public names defined twice", str(len(doubled_names())), "0"),
        ("public functions of one word", f"{one_word_share():.0%}", "under 20 %"),
        ("comments in 100 lines", density, "3 to 5"),
        ("README lines", str(readme), "under 120"),
    ]


def main() -> None:
    for measure, value, goal in table():
        print(f"| {measure} | {value} | {goal} |")


if __name__ == "__main__":
    main()

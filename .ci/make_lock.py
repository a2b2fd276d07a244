"""Write requirements.lock: every package that requirements.txt needs, with its exact version and the hash of its file.

    python .ci/make_lock.py [OPTIONS OF pip install, such as --index-url URL]
    python .ci/make_lock.py --check

The first asks pip what it would install into an empty environment of this Python and this platform, and installs
nothing; an index without metadata of its own makes pip download each file. A lock fits the same Python and platform
only, because a hash stands for one file. Install from it with `pip install --require-hashes -r requirements.lock`.

--check asks nobody: it prints what in requirements.txt the lock does not meet, and ends with 1 if there is something.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS, LOCK = ROOT / "requirements.txt", ROOT / "requirements.lock"
_ENTRY = re.compile(r"([A-Za-z0-9._-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\n")


def ask_pip(more: list[str]) -> dict[str, Any]:
    """Return pip's report of an installation into an empty environment. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command += ["--only-binary", ":all:", "-r", str(REQUIREMENTS), *more]
    report: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report


def format_lock(report: dict[str, Any]) -> str:
    """Return the content of the lock. Raises KeyError for a package without a hash."""
    place = report["environment"]
    lines = [
        "# Made by `python .ci/make_lock.py` from requirements.txt; do not edit.",
        f"# For Python {place['python_version']} on {place['sys_platform']} {place['platform_machine']}.",
    ]
    for one in sorted(report["install"], key=lambda one: str(canonicalize_name(one["metadata"]["name"]))):
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        lines += [f"{one['metadata']['name']}=={one['metadata']['version']} \\", f"    --hash=sha256:{digest}"]
    return "\n".join(lines) + "\n"


def find_mismatches(lock: str, requirements: str) -> list[str]:
    """Return what is wrong with a lock: lines that are no entry with a hash, and requirements that it does not meet."""
    entries = "".join(line for line in lock.splitlines(keepends=True) if not line.startswith("#"))
    left = _ENTRY.sub("", entries).strip()
    problems = [f"not a package with its hash: {left.splitlines()[0]}"] if left else []
    locked = {canonicalize_name(name): version for name, version in _ENTRY.findall(entries)}
    for line in requirements.splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        wanted = Requirement(text)
        version = locked.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            problems.append(f"{text}: the lock has {version or 'no such package'}")
    return problems


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        if not LOCK.exists():
            print(f"There is no {LOCK.name} yet. Make it: python .ci/make_lock.py")
            return 1
        problems = find_mismatches(LOCK.read_text(encoding="utf-8"), REQUIREMENTS.read_text(encoding="utf-8"))
        print("\n".join(problems) or f"{LOCK.name} meets {REQUIREMENTS.name}")
        return 1 if problems else 0
    try:
        lock = format_lock(ask_pip(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        print(f"{LOCK.name} was not written: pip ended with {error.returncode}, for the reason above.")
        return 1
    LOCK.write_text(lock, encoding="utf-8")
    print(f"{LOCK.name}: {lock.count('--hash')} packages")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

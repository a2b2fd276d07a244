"""Write requirements.lock: every package that requirements.txt needs, with its exact version and the hash of its file.

    python .ci/make_lock.py [--index-url URL]

It asks pip what it would install into an empty environment of this Python and this platform; nothing is installed. The
lock fits the same Python and platform only, because a hash stands for one file. Install from it with
`pip install --require-hashes -r requirements.lock`.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS, LOCK = ROOT / "requirements.txt", ROOT / "requirements.lock"


def ask_pip(more: list[str]) -> dict[str, Any]:
    """Return pip's report of an installation into an empty environment. Raises CalledProcessError."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "-r", str(REQUIREMENTS), *more], stdout=subprocess.PIPE, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def format_lock(report: dict[str, Any]) -> str:
    """Return the content of the lock. Raises KeyError for a package without a hash."""
    lines = [
        "# Made by `python .ci/make_lock.py` from requirements.txt; do not edit.",
        f"# For Python {report['environment']['python_version']} on {report['environment']['sys_platform']} "
        f"{report['environment']['platform_machine']}:",
        "# pip install --require-hashes -r requirements.lock",
    ]
    for one in sorted(report["install"], key=lambda one: str(one["metadata"]["name"]).lower()):
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        lines += [f"{one['metadata']['name']}=={one['metadata']['version']} \\", f"    --hash=sha256:{digest}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    LOCK.write_text(format_lock(ask_pip(sys.argv[1:])), encoding="utf-8")
    print(f"{LOCK.name}: {LOCK.read_text().count('--hash')} packages for {platform.machine()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

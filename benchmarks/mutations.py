"""Remove each safeguard of the storage in turn and run the tests; a change that no test notices is printed.

    python -m benchmarks.mutations [--json FILE]

Works on a copy of the tree. The fsyncs have a test of their own (each does nothing, in turn, under a simulated power
cut: tests/runs/test_checkpoints.py); here they are removed from the source once more, beside renames and checks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/system/test_durable.py", "tests/runs/test_checkpoints.py")
DURABLE, CHECKPOINTS = "toolkit/system/durable.py", "toolkit/runs/checkpoints.py"
# safeguard, file, its text, the text without it
MUTATIONS = (
    (
        "fsync of a temporary file",
        DURABLE,
        "            os.fsync(file.fileno())\n        temporary.rename",
        "        temporary.rename",
    ),
    (
        "fsync of its folder",
        DURABLE,
        "        raise\n    fsync_dir(path.parent)\n",
        "        raise\n",
    ),
    (
        "write a temporary file, then rename",
        DURABLE,
        "        temporary.rename(path)\n",
        "        path.write_bytes(temporary.read_bytes())\n",
    ),
    (
        "no temporary file is left behind",
        DURABLE,
        "        temporary.unlink(missing_ok=True)\n        raise",
        "        raise",
    ),
    (
        "fsync of each committed file",
        DURABLE,
        "        os.fsync(file.fileno())\n    return _hash_file",
        "        file.tell()\n    return _hash_file",
    ),
    (
        "fsync of inner folders",
        DURABLE,
        "reverse=True):\n        fsync_dir(folder)\n",
        "reverse=True):\n        del folder\n",
    ),
    (
        "fsync after the commit's rename",
        DURABLE,
        "    staging.rename(final)\n    fsync_dir(final.parent)\n",
        "    staging.rename(final)\n",
    ),
    (
        "an older folder is moved away",
        DURABLE,
        "        final.rename(old)\n",
        "        shutil.rmtree(final)\n",
    ),
    (
        "rename before deletion",
        DURABLE,
        "        path.rename(trash)\n",
        "        trash = path\n",
    ),
    (
        "hashes are compared",
        DURABLE,
        "        if _hash_file(folder / name) != expected:",
        "        if False:",
    ),
    (
        "sizes and hashes, not sizes alone",
        DURABLE,
        'hashlib.file_digest(file, "sha256").hexdigest()',
        '"same"',
    ),
    (
        "no file missing or added",
        DURABLE,
        "    if found != set(files):",
        "    if False:",
    ),
    (
        "the signature is checked",
        DURABLE,
        "    if require_own_signature and not hmac.compare_digest(signature, _sign_body(body)):",
        "    if False:",
    ),
    (
        "a newer schema is refused",
        DURABLE,
        "    if schema > COMMIT_SCHEMA:",
        "    if False:",
    ),
    (
        "no symbolic link is committed",
        DURABLE,
        "        if path.is_symlink():",
        "        if False:",
    ),
    (
        "fsync of the run's folder",
        CHECKPOINTS,
        "        fsync_dir(run.path)  # the name of the new folder must survive a power cut too\n",
        "",
    ),
    (
        "its own run and step",
        CHECKPOINTS,
        '    if body.get("kind") != CHECKPOINT_KIND or',
        "    if False and",
    ),
    (
        "what was half written is removed",
        CHECKPOINTS,
        "        shutil.rmtree(staging, ignore_errors=True)\n        raise",
        "        raise",
    ),
    (
        "old ones go after the commit",
        CHECKPOINTS,
        "        _make_empty(run, staging)\n",
        "        _make_empty(run, staging)\n"
        "        rotate_checkpoints(run, best)\n"
        "        [remove_tree(p) for p in list(list_kept_checkpoints(run).values())[:1]]\n",
    ),
    (
        "two are kept",
        CHECKPOINTS,
        "KEPT_CHECKPOINTS = 2",
        "KEPT_CHECKPOINTS = 1",
    ),
    (
        "the best is kept",
        CHECKPOINTS,
        "step != best",
        "True",
    ),
    (
        "only whole ones are resumed",
        CHECKPOINTS,
        "            return verify_checkpoint(path, run.id), refused",
        "            return Checkpoint(path, int(path.name[5:]), {}), refused",
    ),
)


def red(copy: Path) -> tuple[bool, str]:
    """Whether a test fails, and which is the first."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider", *TESTS],
        cwd=copy, capture_output=True, text=True, timeout=1200,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)},
    )  # fmt: skip
    failed = [
        line.split("::")[1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
    ]
    return done.returncode == 1, failed[0] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "experiments", "docs"))
        assert not red(copy)[0], "the tests are red without any change"
        for what, name, text, without in MUTATIONS:
            whole = (copy / name).read_text()
            assert whole.count(text) == 1, f"{what}: its text is {whole.count(text)} times in {name}"
            (copy / name).write_text(whole.replace(text, without))
            is_red, first = red(copy)
            (copy / name).write_text(whole)
            found.append({"removed": what, "noticed": is_red, "by": first})
            print(f"{'noticed ' if is_red else 'SURVIVED'}  {what}  ({first})", flush=True)
    survived = [one["removed"] for one in found if not one["noticed"]]
    print(f"{len(found) - len(survived)} of {len(found)} noticed")
    if chosen.json:
        figures = {"mutations": found, "survived": survived, "seconds": round(time.monotonic() - began)}
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()

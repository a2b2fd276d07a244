"""The GGUF files of a run side by side: size, speed in llama.cpp, and how many answers rounding has changed.

exports/<form>.played.json       what llama.cpp answered, where it is installed as a package
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from toolkit.export.export_forms import EXPORT_FORMS, GGUF_FILE, ExportForm
from toolkit.export.export_state import ExportState, commit_hash
from toolkit.export.prompt_contract import FrozenModel
from toolkit.runs.run_dir import RunDir
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.printable import format_bytes

QUANTIZER = "llama-quantize"
PLAYER = "xllamacpp"
"""The package that plays a file; it has llama.cpp ready compiled."""
INSTALL_HINT = f"Install llama.cpp (pip install {PLAYER}), or choose the export in 8 bits."
PLAY_HINT = f"For speed and answers in llama.cpp: pip install {PLAYER}, then verify the export again."
LADDER_COLUMNS = ("File", "Size", "Speed on one core", "Answers changed", "Mean change", "Verified")
LIBRARY_NAMES = {PLAYER: "*.so", "llama_cpp": "lib/*ggml-base*"}
"""Package with llama.cpp -> its library with the function that rounds weights."""


class PlayedGguf(FrozenModel):
    """What llama.cpp made of one file. commit: of the export.

    asked, ids_equal, equal: golden prompts, those with the same token ids, and those with the run's own answer.
    tokens, seconds: a long answer on one core, in seconds of that core. problem: why it could not be played, or "".
    """

    commit: str
    asked: int = 0
    ids_equal: int = 0
    equal: int = 0
    tokens: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def speed(self) -> float:
        """Tokens per second on one core, 0 where it is unknown."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class GgufRung:
    """One file. equal: greedy answers to the golden prompts that are the run's own to the last token, of `asked`.

    They are llama.cpp's if it has played the file, else those of the certificate. mean_drift: change of a token's
    log-probability, on average (nats). passed: whether it is verified.
    """

    form: ExportForm
    bytes: int
    equal: int
    asked: int
    mean_drift: float
    passed: bool
    played: PlayedGguf | None = None

    @property
    def answers_same(self) -> bool:
        """Whether the file is verified and every answer is equal."""
        return self.passed and self.equal == self.asked


def list_ggml_libraries() -> list[Path]:
    """Return the files that may be llama.cpp's library with its function to round weights, the likeliest first."""
    return [path for path in _candidates() if path.is_file()]


def _candidates() -> Iterator[Path]:
    for package, name in LIBRARY_NAMES.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(folder).glob(name))
    program = shutil.which(QUANTIZER)
    if program is not None:
        place = Path(program).resolve().parent
        for near in (place, place.parent / "lib"):
            yield from sorted(near.glob("libggml-base.*"))
    installed = ctypes.util.find_library("ggml-base")
    if installed is not None:
        yield Path(installed)


def list_ladder_forms() -> list[str]:
    """Return the keys of the GGUF forms that can be made on this machine."""
    has_blocks = bool(list_ggml_libraries()) or shutil.which(QUANTIZER) is not None
    forms = [form for form in EXPORT_FORMS.values() if form.main_file == GGUF_FILE]
    return [form.key for form in forms if has_blocks or not form.needs_llama_cpp]


def played_path(run: RunDir, form: str) -> Path:
    """Return the file with what llama.cpp answered."""
    return run.exports_dir / f"{form}.played.json"


def read_played(run: RunDir, form: str, commit: str) -> PlayedGguf | None:
    """Return what llama.cpp made of an export; None for another commit, or a file that can't be read."""
    try:
        played = PlayedGguf.model_validate(read_foreign_json(played_path(run, form)))
    except (OSError, ValueError, ValidationError):
        return None
    return played if played.commit == commit else None


def compare_gguf_files(run: RunDir, states: Iterable[ExportState]) -> list[GgufRung]:
    """Return the verified and refused GGUF files among the exports, the largest first."""
    rungs = []
    for state in states:
        certificate, folder = state.certificate, state.folder
        if certificate is None or folder is None or not (folder / GGUF_FILE).is_file() or not certificate.rows:
            continue
        played = read_played(run, state.form.key, commit_hash(folder))
        equal = sum(row.answer_equal and row.tie is None for row in certificate.rows)
        if played is not None and not played.problem:
            equal = played.equal
        size = (folder / GGUF_FILE).stat().st_size
        asked, drift = len(certificate.rows), certificate.mean_drift
        rungs.append(GgufRung(state.form, size, equal, asked, drift, certificate.passed, played))
    return sorted(rungs, key=lambda rung: -rung.bytes)


def list_ladder_cells(rung: GgufRung) -> tuple[str, ...]:
    """Return what is shown of a file in the columns LADDER_COLUMNS."""
    speed = "not played"
    if rung.played is not None:
        speed = "failed" if rung.played.problem else f"{rung.played.speed:,.1f} tokens/s"
    changed, verified = f"{rung.asked - rung.equal} of {rung.asked}", "yes" if rung.passed else "NO"
    return rung.form.title, format_bytes(rung.bytes), speed, changed, f"{rung.mean_drift:.2g}", verified


def describe_smallest(rungs: list[GgufRung]) -> str:
    """Return which file is the smallest that still answers the same."""
    same = [rung for rung in rungs if rung.answers_same]
    if not same:
        return "No GGUF file answers every golden prompt as the run does."
    smallest = min(same, key=lambda rung: rung.bytes)
    return (
        f"The smallest file that still answers the same: {smallest.form.title}, {format_bytes(smallest.bytes)} "
        f"({smallest.equal} of {smallest.asked} answers equal)."
    )

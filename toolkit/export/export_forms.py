"""The forms in which a run's model can be exported, and the functions that build, load and describe each of them.

A new form is one module in `worker/exporting` and one entry in `EXPORT_FORMS`. The functions are named as
"module:function", because those of the worker need torch, which the app never imports.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Any

from toolkit.errors import RunError

GGUF_FILE = "model.gguf"
GGUF_PROBLEM_FILE = "no-gguf.txt"
"""Why an export has no model.gguf."""
K_QUANTS = ("q6_k", "q5_k_m", "q4_k_m")
"""Precisions whose numbers are rounded by llama.cpp."""


@dataclass(frozen=True)
class ExportForm:
    """One form of export.

    dtype: precision of the exported weights, "" for the adapter's own.
    contains_base: whether the weights are a whole model; an adapter needs its base model.
    build: (run, config, form, contract, staging folder, progress) -> None; fills the folder.
    load: (run, config, form, contract) -> context manager of a `LoadedExport`.
    recipes: (run, config, form, location, chat) -> list of recipes.
    main_file, problem_file: a file that may be missing, and the one that says why.
    quantized: whether it is coarser than 16 bits, and made for some families of models only.
    needs_llama_cpp: whether llama.cpp must be installed to make it.
    """

    key: str
    title: str
    what: str
    dtype: str
    contains_base: bool
    build: str
    load: str
    recipes: str
    main_file: str = ""
    problem_file: str = ""
    quantized: bool = False
    needs_llama_cpp: bool = False


_WORKER, _RECIPES = "toolkit.worker.exporting", "toolkit.export.usage_recipes"


def _merged_form(key: str, title: str, what: str, dtype: str) -> ExportForm:
    build, load = f"{_WORKER}.merged:build_merged", f"{_WORKER}.merged:load_merged"
    return ExportForm(key, title, what, dtype, True, build, load, f"{_RECIPES}:list_model_recipes")


def _gguf_form(key: str, title: str, what: str, dtype: str) -> ExportForm:
    build, load, recipes = f"{_WORKER}.gguf:build_gguf", f"{_WORKER}.gguf:load_gguf", f"{_RECIPES}:list_gguf_recipes"
    files, quantized = (GGUF_FILE, GGUF_PROBLEM_FILE), dtype != "float16"
    outside = dtype in K_QUANTS
    return ExportForm(
        key, title, what, dtype, True, build, load, recipes, *files, quantized=quantized, needs_llama_cpp=outside
    )


_FORMS = (
    ExportForm(
        key="adapter",
        title="Adapter",
        what="Only the trained weights: a small file that is used together with the base model.",
        dtype="",
        contains_base=False,
        build=f"{_WORKER}.adapter:build_adapter",
        load=f"{_WORKER}.adapter:load_adapter",
        recipes=f"{_RECIPES}:list_model_recipes",
    ),
    _merged_form(
        "merged-bf16", "Merged, bf16", "One complete model, for vLLM and transformers on recent GPUs.", "bfloat16"
    ),
    _merged_form(
        "merged-fp16", "Merged, fp16", "One complete model with finer rounding, for older GPUs and for GGUF.", "float16"
    ),
    _gguf_form(
        "gguf", "GGUF, 16 bits", "One file for llama.cpp and Ollama, with the prompt format of training.", "float16"
    ),
    _gguf_form("gguf-q8", "GGUF, 8 bits (q8_0)", "Half the size of 16 bits. Rounding may change an answer.", "q8_0"),
    _gguf_form("gguf-q6", "GGUF, 6 bits (q6_k)", "Two fifths of the size of 16 bits. Needs llama.cpp.", "q6_k"),
    _gguf_form("gguf-q5", "GGUF, 5 bits (q5_k_m)", "A bit more than a third of 16 bits. Needs llama.cpp.", "q5_k_m"),
    _gguf_form(
        "gguf-q4",
        "GGUF, 4 bits (q4_k_m)",
        "Less than a third of 16 bits; rounding changes more answers. Needs llama.cpp.",
        "q4_k_m",
    ),
)
EXPORT_FORMS = {form.key: form for form in _FORMS}


def find_export_form(form: str) -> ExportForm:
    """Return the form with that key. Raises RunError."""
    if form not in EXPORT_FORMS:
        raise RunError(f"'{form[:40]}' is not an export form.", f"Choose one of {', '.join(EXPORT_FORMS)}.")
    return EXPORT_FORMS[form]


def resolve_form_function(reference: str) -> Any:
    """Import and return the function that a form names as "module:function"."""
    return pkgutil.resolve_name(reference)

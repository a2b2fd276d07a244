"""Import the libraries for training and answering in two thirds of the usual time.

Two things are switched off meanwhile: garbage collection, which would scan everything that the libraries hold again and
again, and torch's compiler, which bitsandbytes imports only to prepare a compiled version of kernels that it already
has as machine code.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IMPORT_STEPS = (
    "torch",
    "transformers",
    "torch.distributed.tensor",
    "transformers.modeling_utils",
    "bitsandbytes",
    "peft.tuners.lora",
    "datasets",
    "trl.trainer.sft_trainer",
    "toolkit.worker.training.session",
)
"""Modules in the order of import, each a step of the progress bar. The last imports all that a training run needs."""
LIBRARY_NAMES = {"torch": "PyTorch", "trl": "TRL", "peft": "PEFT", "toolkit": "the trainer"}
"""What a progress bar calls a package, where it is not the package's own name."""
_COMPILER = "TORCHDYNAMO_DISABLE"


def import_libraries(on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Import all IMPORT_STEPS; call `on_progress` after each with the number of steps done.

    Raises whatever an import raises, except for bitsandbytes: without it nothing can be quantized, which is checked
    where a model is loaded.
    """
    forbid_hub_kernels()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to install `kernels`
    with _without_garbage_collection():
        for done, name in enumerate(IMPORT_STEPS, 1):
            if name == "bitsandbytes":
                _import_without_compiler(name)
            else:
                importlib.import_module(name)
            on_progress(done)


def forbid_hub_kernels() -> None:
    """Make the package `kernels` unavailable in this process, also where it is installed: it runs code from the Hub.

    With it, a model's quantization method or architecture could have a kernel downloaded, despite USE_HUB_KERNELS=0.
    """
    sys.modules["kernels"] = None  # type: ignore[assignment]  # an import then raises ImportError, and no spec is found


def name_import_step(done: int) -> str:
    """Return the name of the library that is imported after `done` finished steps; past the last, a first model."""
    if done >= len(IMPORT_STEPS):
        return "a first model"
    package = IMPORT_STEPS[done].partition(".")[0]
    return LIBRARY_NAMES.get(package, package)


def can_fork() -> bool:
    """Return whether a fork of this process is safe: no other threads and no GPU driver."""
    torch = sys.modules.get("torch")  # without it there is no driver either
    driver = torch is not None and torch.cuda.is_initialized()
    return sys.platform == "linux" and threading.active_count() == 1 and not driver


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection inside, and exclude what then exists from later collections.

    A full collection over the libraries takes a third of a second, and in a fork it copies shared memory pages.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if on:
            gc.enable()


def _import_without_compiler(name: str) -> None:
    before = os.environ.get(_COMPILER)
    os.environ[_COMPILER] = "1"
    try:
        importlib.import_module(name)
    except ImportError:
        logging.getLogger(__name__).info("%s can't be imported; quantization is not available", name, exc_info=True)
    finally:
        del os.environ[_COMPILER]
        if before is not None:
            os.environ[_COMPILER] = before

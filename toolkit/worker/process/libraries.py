"""Imports the libraries for training and answering, in two thirds of the time that it takes by itself.

Two things are kept from happening meanwhile. The search for garbage, which goes through all that the libraries hold
again and again. And torch's compiler, which bitsandbytes imports to prepare a second version of what it has machine
code for, on a CPU as on a GPU. Every process that computes begins here; nothing is known of what it computes.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IMPORT_STEPS = (
    "torch", "transformers", "torch.distributed.tensor", "transformers.modeling_utils", "bitsandbytes",
    "peft.tuners.lora", "datasets", "trl.trainer.sft_trainer", "toolkit.worker.training.session",
)  # fmt: skip
"""In this order: each is a step that a person who waits sees; the last brings all that a training run needs."""
_COMPILER = "TORCHDYNAMO_DISABLE"


def import_libraries(told: Callable[[int], None] = lambda _: None) -> None:
    """Import all PIECES; `told` hears after each how many are done. Raises what an import raises."""
    # it advises to install a package that is left out on purpose: that one runs code from the hub
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _without_garbage_collection():
        for done, name in enumerate(IMPORT_STEPS, 1):
            if name == "bitsandbytes":
                _import_without_compiler(name)
            else:
                importlib.import_module(name)
            told(done)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What lives afterwards is left out of every later search: it costs a third of a second, and copies pages in a
    fork."""
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
        logging.getLogger(__name__).info("%s can't be imported: nothing is quantized here", name, exc_info=True)
    finally:
        del os.environ[_COMPILER]
        if before is not None:
            os.environ[_COMPILER] = before

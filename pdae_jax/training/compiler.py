"""How hard XLA works on a program before it runs.

On a CPU, compiling takes longer than training for the first thousand steps of a small model, and most of that is spent
on code that runs once, or that is no faster for it. Measured on two cores, ten features: a program that runs once
(the start of a fit) compiles in a third of the time without optimisation, the training step in two thirds at level 1,
with the same time per step at 10 and at 500 features.
"""

import contextlib
import gc
import os
from collections.abc import Iterator

import jax

RUNS_ONCE = {"xla_backend_optimization_level": 0}
RUNS_OFTEN = {"xla_backend_optimization_level": 1}


def compiler_options(options: dict[str, int]) -> dict[str, int]:
    """Return `options` for ``jax.jit(..., compiler_options=)``: on CPUs, and where ``XLA_FLAGS`` does not set the
    level.
    """
    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    return options if jax.default_backend() == "cpu" and not chosen else {}


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off for tracing: that makes so many objects that Python looks through all that are
    alive, in vain, again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

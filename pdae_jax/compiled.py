"""Compiled programs: kept on disk for the next process, how hard XLA works on them, and run as they are written."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax._src import xla_bridge

T = TypeVar("T")

SWITCH = "PDAE_COMPILATION_CACHE"  # environment variable: ``off``, or a folder
MAX_BYTES = 2**30  # of all programs together; the oldest go first
# Settings of JAX's cache: where JAX has its own default, a library of a hundred small programs needs another value.
_CACHE = {
    "jax_compilation_cache_max_size": (-1, MAX_BYTES),
    "jax_persistent_cache_min_compile_time_secs": (1.0, 0.0),
    "jax_persistent_cache_min_entry_size_bytes": (0, -1),
}

# On a CPU, compiling takes longer than training for the first thousand steps of a small model, and most of that is
# spent on code that runs once, or that is no faster for it. Measured on two cores, ten features: a program that runs
# once (the start of a fit) compiles in a third of the time without optimisation, the training step in two thirds at
# level 1, with the same time per step at 10 and at 500 features. XLA's older fusion compiles a step of ten features in
# 0.4 of the time and runs it in 0.95; of 50 features and more it would take 1.1 times as long.
RUNS_ONCE = {"xla_backend_optimization_level": 0}
RUNS_OFTEN = {"xla_backend_optimization_level": 1}
RUNS_SHORT = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def cache_compilations(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Keep compiled programs for later processes; on a CPU most of the time of a short fit goes into compiling.

    `fit`, `predict`, `evaluate` and their like do so by themselves, unless the environment has
    ``PDAE_COMPILATION_CACHE=off``. A folder that JAX was given before, say by ``JAX_COMPILATION_CACHE_DIR``, stays, and
    so does every setting of its cache that is not JAX's own default.

    Args:
        folder: where to keep them, at most 1 GB; default that of ``PDAE_COMPILATION_CACHE``, else the user's cache
            folder.

    Returns:
        The folder.
    """
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if given and folder is None:
        path = pathlib.Path(given)  # as JAX has it, which may be the address of a bucket: JAX makes it
    else:
        path = _folder(folder)
        path.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(path))
    for name, (default, value) in _CACHE.items():
        if getattr(jax.config, name) == default and name.upper() not in os.environ:
            jax.config.update(name, value)
    return path


def _folder(folder: str | os.PathLike[str] | None) -> pathlib.Path:
    chosen = folder or os.environ.get(SWITCH)
    if chosen and chosen != "off":
        return pathlib.Path(chosen)
    import pooch

    return pathlib.Path(pooch.os_cache("pdae_jax")) / "compiled"


@contextlib.contextmanager
def as_door() -> Iterator[None]:
    """Run `as_written`, and keep compiled programs for later processes, `cache_compilations`: what users call."""
    off = os.environ.get(SWITCH) == "off"
    if not off and jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        with contextlib.suppress(OSError):  # a home that is read-only: each process compiles for itself
            cache_compilations()
    with as_written():
        yield


def compiler_options(options: dict[str, int]) -> dict[str, int]:
    """Return `options` for ``jax.jit(..., compiler_options=)``: on CPUs, of those that XLA has, what ``XLA_FLAGS`` does
    not set.
    """
    if jax.default_backend() != "cpu":
        return {}
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in given and _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: int) -> bool:
    """Tell whether this XLA has an option: they come and go, and one that is not known is an error."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jitted(function: Callable[..., T], options: dict[str, int], **how: Any) -> Callable[..., T]:
    """Make ``jax.jit(function, **how)`` with `options` at the first call: before it, it is not known what they run on.

    For programs that are no part of others: XLA's options are of whole programs.
    """

    @functools.cache
    def compiled() -> Callable[..., T]:
        return jax.jit(function, compiler_options=compiler_options(options), **how)

    @functools.wraps(function)
    def call(*arguments: Any) -> T:
        return compiled()(*arguments)

    return call


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Run programs of the library, and optax in them, where a user has JAX refuse what these rely on.

    That is infinity as the lowest error so far, shapes and types that promote each other, and compiling ahead of time.
    Numbers are the same.

    Raises:
        RuntimeError: in a process forked after JAX had started, where every program would wait for ever.
    """
    if _FORKED:
        raise RuntimeError(
            "This process was forked from one in which JAX had started its threads, which a fork does not copy: JAX "
            "would wait for them for ever. Start processes with multiprocessing.get_context('spawn'), or fork before "
            "JAX is used."
        )
    with (
        jax.debug_infs(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.disable_jit(False),
    ):
        yield


# The parent of a process whose JAX does not work; JAX only warns. State, since a fork tells its child nothing else.
_FORKED: list[int] = []


def _remember_fork() -> None:
    if xla_bridge.backends_are_initialized():
        _FORKED.append(os.getppid())


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_remember_fork)

"""What XLA compiled, kept on disk: a new process starts where the last one left off."""

import os
import pathlib

import jax

MAX_BYTES = 2**30  # of all programs together; the oldest go first
MIN_SECONDS = 0.2  # programs that compile faster are not worth a file


def cache_compilations(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Keep compiled programs for later processes; on a CPU most of the time of a short fit goes into compiling.

    The scripts of `experiments/` call it. A folder that JAX was given before, say by ``JAX_COMPILATION_CACHE_DIR``,
    stays.

    Args:
        folder: where to keep them, at most 1 GB; default the user's cache folder.

    Returns:
        The folder.
    """
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if given and folder is None:
        return pathlib.Path(given)
    if folder is None:
        import pooch

        folder = pathlib.Path(pooch.os_cache("pdae_jax")) / "compiled"
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    return path

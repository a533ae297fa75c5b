"""Set before JAX and matplotlib are imported; nothing here may import pdae_jax, whose annotations pytest checks."""

import atexit
import gc
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import absl.logging
import hypothesis
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

# Tests compile thousands of small programs and run each once or twice: without LLVM's optimisations, with XLA's older
# code for fused loops and in one piece, a training step compiles in a quarter of the time, and runs no slower.
# With PDAE_TEST_OPTIMIZED=1 they are compiled as users compile.
QUICKLY_COMPILED = ("--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1")
OLDER_FUSION = "--xla_cpu_use_fusion_emitters=false"  # a process in which JAX does not know it any more would stop


def jax_starts_with(flags):
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0


if not os.environ.get("PDAE_TEST_OPTIMIZED") and "PYTEST_XDIST_WORKER" not in os.environ:  # workers have them already
    given = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in (*QUICKLY_COMPILED, OLDER_FUSION)]
    flags = " ".join([*given, *QUICKLY_COMPILED])
    os.environ["XLA_FLAGS"] = f"{flags} {OLDER_FUSION}" if jax_starts_with(f"{flags} {OLDER_FUSION}") else flags

# What one worker has compiled the other reads, and so do the processes that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled_by_tests_")
    atexit.register(compiled.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Most of what tracing makes stays: to look for garbage among it after every 700 objects takes 7 % of the time.
gc.set_threshold(20_000, 10, 10)

import jax  # noqa: E402  (reads the environment)

MOST_MAPS = 20_000
# files that take longest begin first, so that no worker has one of them left when the other is done
LONGEST = (
    *("launchers", "fit", "tune", "components", "population", "pair_sum", "compositional", "stored", "scripts"),
    *("devices", "table", "ensemble", "samples"),
)

# The same examples every time, and no deadline: the first example of a jitted function compiles it.
hypothesis.settings.register_profile("pdae_jax", derandomize=True, deadline=None, max_examples=30, database=None)
hypothesis.settings.load_profile("pdae_jax")


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True, scope="module")
def few_compiled_programs():
    """A process may have 65,530 maps of memory on Linux, and each compiled program takes a few of them.

    Without this a worker that has run most of the tests dies in the compiler.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def log(caplog, monkeypatch):
    """What the library logs, from level info up."""
    monkeypatch.setattr(absl.logging.get_absl_logger(), "propagate", True)
    caplog.set_level(logging.INFO, "absl")
    return caplog


@pytest.fixture
def plain_signals():
    """What shells leave a job in the foreground with.

    One in the background ignores Ctrl-C, and so do its children; and Ray installs a handler of SIGTERM, and leaves it.
    """
    plain = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in plain.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

"""Time and memory beside an older checkout, in ratios to it: one process for each measurement, in turns, on one core.

    git worktree add ../old 631e80b
    python experiments/benchmarks/times.py --old=../old
    python experiments/benchmarks/times.py --old=../old --rows=step-noise,linear

CPU seconds, the best of a few. ``process-first`` and ``process-second`` are whole processes with an empty cache of
compiled programs, and again with it. ``energy-D`` is not CPU seconds but a ratio: ten lines of jnp take 1.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import app, flags

from experiments.benchmarks.times_rows import ROWS

OLD = flags.DEFINE_string("old", None, "folder of the checkout to compare with", required=True)
CHOSEN = flags.DEFINE_list("rows", list(ROWS), "measurements to take")
REPEATS = flags.DEFINE_integer("repeats", 2, "processes for each checkout, in turns; the best counts")

HERE = pathlib.Path(__file__).resolve()
TARGETS = {
    "step-counts": 0.40,
    "step-noise": 0.36,
    "step-surface": 0.37,
    "step-10d": 0.82,
    "step-memory": 0.25,
    "evaluate": 0.25,
    "preparation": 0.10,
    "linear": 0.20,
    "process-first": 0.50,
    "process-second": 0.20,
    "memory": 0.70,
}


def measure(row: str, checkout: pathlib.Path) -> float:
    """One measurement of a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        found = _process(row, checkout, cache)
        return _process(row, checkout, cache) if row == "process-second" else found


def _process(row: str, checkout: pathlib.Path, cache: str) -> float:
    one_core = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    cached = {"XDG_CACHE_HOME": cache, "PDAE_COMPILATION_CACHE": cache}
    own = {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", **cached}
    given = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    asked = [*one_core, sys.executable, str(HERE.with_name("times_rows.py")), row]
    done = subprocess.run(asked, capture_output=True, text=True, env={**given, **threads, **own}, cwd=cache)
    if done.returncode:
        raise RuntimeError(f"{row} failed in {checkout}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def main(_):
    unknown = set(CHOSEN.value) - set(ROWS)
    if unknown:
        raise app.UsageError(f"--rows has no {', '.join(sorted(unknown))}; pass some of {', '.join(ROWS)}.")
    old = pathlib.Path(OLD.value).resolve()
    if not (old / "pdae_jax").is_dir():
        raise app.UsageError(f"--old={OLD.value} is no checkout: it has no folder pdae_jax.")
    print(f"{'':15}{'old':>12}{'now':>12}{'ratio':>8}{'target':>8}")
    for row in CHOSEN.value:
        pairs = [(measure(row, old), measure(row, HERE.parents[2])) for _ in range(REPEATS.value)]
        before, now = map(min, zip(*pairs, strict=True))
        # of energy distances the numbers themselves are ratios, to ten lines of jnp
        ratio, target = (now, 1.0) if row.startswith("energy-") else (now / before, TARGETS[row])
        print(f"{row:15}{before:12.4g}{now:12.4g}{ratio:8.2f}{target:8.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)

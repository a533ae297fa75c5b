"""Time and memory beside an older checkout, in ratios to it: one process for each measurement, in turns, on one core.

    git worktree add ../old 631e80b
    python experiments/benchmarks/times.py --old=../old
    python experiments/benchmarks/times.py --old=../old --rows=step-noise,linear

CPU seconds, the best of a few; of memory bytes. Rows that end in ``first`` and ``second`` are whole processes with an
empty cache of compiled programs, and again with it. ``run`` and ``screen`` are whole commands,
`experiments/run.py`; those of screens take long and are taken only where ``--rows`` names them.
``quality`` needs PyTorch (`make bench SCRIPT=times`).

Of two kinds of rows the numbers themselves are ratios: ``energy-D``, where ten lines of jnp take 1, and ``quality``,
wall time to a held-out energy distance, where the same recipe takes 1 in eager PyTorch.
"""

import csv
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

from absl import app, flags

from experiments.benchmarks.times_rows import ROWS

COMMANDS = {
    "run-first": "simulated.py",
    "run-second": "simulated.py",
    "screen": "screen.py",
    "screen-thousands": "screen.py:thousands",
}
QUALITY = {"quality-first": "ours", "quality-second": "ours_again"}  # row -> side of `time_to_quality`
LONG = ("screen", "screen-thousands")
EVERY = (*ROWS, *COMMANDS, *QUALITY)

OLD = flags.DEFINE_string("old", None, "folder of the checkout to compare with", required=True)
CHOSEN = flags.DEFINE_list("rows", [row for row in EVERY if row not in LONG], "measurements to take")
REPEATS = flags.DEFINE_integer("repeats", 2, "processes for each checkout, in turns; the best counts")

HERE = pathlib.Path(__file__).resolve()
TARGETS = {
    "step-counts": 0.40,
    "step-noise": 0.36,
    "step-surface": 0.37,
    "step-10d": 0.82,
    "step-memory": 0.25,
    "evaluate": 0.25,
    "results": 0.25,
    "preparation": 0.10,
    "linear": 0.20,
    "process-first": 0.50,
    "process-second": 0.20,
    "memory": 0.70,
    "run-first": 0.55,
    "run-second": 0.50,
    "screen": 0.38,
    "screen-thousands": 0.45,
    "quality-first": 2.0,
    "quality-second": 1.0,
}


def measure(row: str, checkout: pathlib.Path) -> float:
    """One measurement of a checkout, in processes of its own."""
    with tempfile.TemporaryDirectory() as cache:
        found = _measured(row, checkout, cache)
        # a quality has both processes within
        return _measured(row, checkout, cache) if row in ("process-second", "run-second") else found


def _measured(row: str, checkout: pathlib.Path, cache: str) -> float:
    if row in ROWS:
        return float(_output([str(HERE.with_name("times_rows.py")), row], checkout, cache).split()[-1])
    with tempfile.TemporaryDirectory() as folder:
        if row in QUALITY:
            return _quality(QUALITY[row], checkout, cache, pathlib.Path(folder) / "quality.csv")
        asked = ["experiments/run.py", f"--config=experiments/configs/{COMMANDS[row]}", f"--workdir={folder}/run"]
        before = _seconds_of_children()
        _output(asked, checkout, cache)
        return _seconds_of_children() - before


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _quality(side: str, checkout: pathlib.Path, cache: str, table: pathlib.Path) -> float:
    """The time of a side over that of the same recipe in eager PyTorch."""
    _output(["experiments/benchmarks/time_to_quality.py", "--torch_seconds=15", f"--out={table}"], checkout, cache)
    reached = {}
    with table.open(newline="") as file:
        for point in csv.DictReader(file):
            if point["seconds"] and float(point["energy_distance"]) <= 0.05:
                reached.setdefault(point["method"], float(point["seconds"]))
    # an older checkout caches nothing here: its second process is like its first
    return reached.get(side, reached["ours"]) / reached["pytorch_recipe"]


def _output(asked: list[str], checkout: pathlib.Path, cache: str) -> str:
    """What a script prints, run in a checkout on one core."""
    one_core = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    cached = {"XDG_CACHE_HOME": cache, "PDAE_COMPILATION_CACHE": cache}
    own = {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", **cached}
    given = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [*one_core, sys.executable, *asked]
    done = subprocess.run(command, capture_output=True, text=True, env={**given, **threads, **own}, cwd=checkout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(asked)} failed in {checkout}:\n{done.stderr}")
    return done.stdout


def main(_):
    unknown = set(CHOSEN.value) - set(EVERY)
    if unknown:
        raise app.UsageError(f"--rows has no {', '.join(sorted(unknown))}; pass some of {', '.join(EVERY)}.")
    old = pathlib.Path(OLD.value).resolve()
    if not (old / "pdae_jax").is_dir():
        raise app.UsageError(f"--old={OLD.value} is no checkout: it has no folder pdae_jax.")
    print(f"{'':16}{'old':>12}{'now':>12}{'ratio':>8}{'target':>8}")
    for row in CHOSEN.value:
        pairs = [(measure(row, old), measure(row, HERE.parents[2])) for _ in range(REPEATS.value)]
        before, now = map(min, zip(*pairs, strict=True))
        ratio = now if row in QUALITY or row.startswith("energy-") else now / before
        target = TARGETS.get(row, 1.0)  # of energy distances
        print(f"{row:16}{before:12.4g}{now:12.4g}{ratio:8.2f}{target:8.2f}", flush=True)


if __name__ == "__main__":
    app.run(main)

"""Training from files against training in memory: time, peak memory, and whether the numbers are the same.

python experiments/benchmarks/larger_than_memory.py                       1,000,000 cells x 2,000 genes, from files
python experiments/benchmarks/larger_than_memory.py --cells=100000 --memory   both, with as many cells as fit

A file of sparse counts is made first, compressed as `AnnData.write_h5ad` does when asked to. Each fit is a process of
its own, so that its peak memory is its own.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags, logging

CELLS = flags.DEFINE_integer("cells", 1_000_000, "cells in the file")
GENES = flags.DEFINE_integer("genes", 2000, "genes in the file")
CONDITIONS = flags.DEFINE_integer("conditions", 200, "conditions; half of them pairs")
STEPS = flags.DEFINE_integer("steps", 300, "steps of the fit")
MEMORY = flags.DEFINE_boolean("memory", False, "also with the cells in memory")
FOLDER = flags.DEFINE_string("folder", None, "where the file lies; default a temporary folder")
FIT = flags.DEFINE_string("fit", None, "internal: `memory` or `files`, fit the file in this process")

BLOCK = 20_000


def main(_):
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(FOLDER.value or scratch)
        if FIT.value:
            print(json.dumps(fit_file(folder, FIT.value)))
            return
        write_counts(folder / "cells.h5ad")
        size = (folder / "cells.h5ad").stat().st_size / 1e9
        print(
            f"{CELLS.value:,} cells x {GENES.value:,} genes in {CONDITIONS.value} conditions, a file of {size:.2f} GB"
        )
        found = {kind: in_own_process(folder, kind) for kind in (["memory"] if MEMORY.value else []) + ["files"]}
        print("| cells | read, s | start, s | a step, ms | evaluate 5 conditions, s | peak memory, GB | last loss |")
        print("|---|---|---|---|---|---|---|")
        for kind, row in found.items():
            print(
                f"| in {kind} | {row['read']:.0f} | {row['ready']:.0f} | {1000 * row['step']:.0f} "
                f"| {row['evaluate']:.0f} | {row['peak']:.2f} | {row['loss']:.6f} |"
            )


def in_own_process(folder: pathlib.Path, kind: str) -> dict:
    """One fit, in a process of its own."""
    options = [f"--{name}={flags.FLAGS[name].value}" for name in ("cells", "genes", "conditions", "steps")]
    command = [sys.executable, __file__, f"--fit={kind}", f"--folder={folder}", *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def fit_file(folder: pathlib.Path, kind: str) -> dict:
    """Read, fit and evaluate; seconds, and the peak memory of this process."""
    import jax

    import pdae_jax

    start = time.perf_counter()
    store = folder / "store" if kind == "files" else None
    data = pdae_jax.from_anndata(folder / "cells.h5ad", control="control", normalize=True, store=store)
    read = time.perf_counter() - start
    held_out = [name for name in data.conditions if "+" in name][:5]
    train, test = pdae_jax.hold_out(data, held_out)
    lap = Laps()
    recipe = pdae_jax.Recipe(num_steps=STEPS.value, stop_step=STEPS.value, log_every=100, latent_dim=10)
    fitted = pdae_jax.fit(train, key=jax.random.key(0), progress=lap, recipe=recipe)
    start = time.perf_counter()
    pdae_jax.evaluate(fitted, test, metrics=["energy_distance", "mean_l2"], progress=False)
    return {
        "read": read,
        "ready": lap.times[0] - lap.start,
        "step": (lap.times[-1] - lap.times[1]) / (STEPS.value - 100),
        "evaluate": time.perf_counter() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": fitted.history[-1]["total"],
    }


class Laps:
    """When each hundred steps were done."""

    def __init__(self):
        self.start, self.times = time.perf_counter(), []

    def update(self, step: int, num_steps: int, loss: float) -> None:
        self.times.append(time.perf_counter())

    def close(self) -> None:
        pass


def write_counts(path: pathlib.Path) -> None:
    """Sparse counts, about 5 % not zero, a block of cells at a time; cells of a condition lie scattered."""
    import anndata
    import pandas as pd
    import scipy.sparse
    from anndata.experimental import concat_on_disk

    random = np.random.default_rng(0)
    genes, singles = GENES.value, CONDITIONS.value // 2
    base = 0.003 + random.gamma(0.4, 0.12, genes)
    effects = np.exp(0.7 * random.normal(size=(singles, genes)) * (random.random((singles, genes)) < 0.1))
    pairs = [(i, (i + 1) % singles) for i in range(CONDITIONS.value - singles - 1)]
    parts = [(), *((i,) for i in range(singles)), *pairs]
    names = np.array(["+".join(f"p{i}" for i in part) or "control" for part in parts])
    rates = np.stack([base * np.prod(effects[list(part)], axis=0) for part in parts])
    files = []
    for number, first in enumerate(range(0, CELLS.value, BLOCK)):
        size = min(BLOCK, CELLS.value - first)
        condition = random.integers(len(names), size=size)
        counts = random.poisson(rates[condition] * random.lognormal(0.0, 0.3, (size, 1))).astype(np.float32)
        counts[:, 0] += 1
        obs = pd.DataFrame({"condition": names[condition]}, index=pd.Index([f"{first + i}" for i in range(size)]))
        var = pd.DataFrame(index=pd.Index([f"g{i}" for i in range(genes)]))
        files.append(path.with_name(f"{number}.h5ad"))
        anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(files[-1], compression="gzip")
    concat_on_disk(files, path)
    for file in files:
        file.unlink()


if __name__ == "__main__":
    app.run(main)

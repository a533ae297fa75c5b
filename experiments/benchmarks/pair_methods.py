"""Seconds and error of every method on one split of `norman_pairs`: 231 conditions, 300 genes, 30 pairs held out.

    make bench SCRIPT=pair_methods                                  # ten minutes on 2 cores
    python experiments/benchmarks/pair_methods.py --methods=pdae,ridge

Seconds are those from data in memory to 1,000 predicted cells of each held-out pair, compilation included; the error
is the mean energy distance (U form) of these to 1,000 cells of the known law. All methods run in one process, one
after the other; `compositional` is the CPA-style autoencoder with the networks, batches and steps of the model.
"""

import pathlib
import time

import jax
import numpy as np
import pandas as pd
from absl import app, flags, logging

from experiments.lab.cases import Case, norman
from pdae_jax import fit, losses, predict
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.compositional import fit_compositional

SPLIT = flags.DEFINE_integer("split", 1, "of the pairs, 1 to 5")
METHODS = flags.DEFINE_list("methods", ["pdae", "compositional", *BASELINES], "which ones")
OUT = flags.DEFINE_string("out", "runs/bench/pair_methods.csv", "table")

NUM_SAMPLES = 1000


def predicted(method: str, case: Case) -> dict[str, np.ndarray]:
    """Cells of every held-out pair by one method, trained anew."""
    key_fit, key_predict = jax.random.split(jax.random.key(0))
    train, pairs = case.train, case.test.conditions
    if method == "pdae":
        fitted = fit(train, key=key_fit, validation=case.validation, progress=False)
        return {pair: predict(fitted, pair, key=key_predict, num_samples=NUM_SAMPLES).samples for pair in pairs}
    if method == "compositional":
        fitted = fit_compositional(train, key=key_fit, validation=case.validation, progress=False)
        return {pair: fitted.samples(key_predict, train, pair, NUM_SAMPLES, floor=0.0) for pair in pairs}
    return {pair: BASELINES[method](key_predict, train, pair, NUM_SAMPLES, floor=0.0) for pair in pairs}


def main(_):
    logging.set_verbosity(logging.ERROR)
    case = norman(SPLIT.value)
    true = {pair: case.test.cells(pair)[:NUM_SAMPLES] for pair in case.test.conditions}
    rows = []
    for method in METHODS.value:
        begin = time.perf_counter()
        cells = predicted(method, case)
        seconds = time.perf_counter() - begin
        error = np.mean([float(losses.energy_distance(cells[pair], true[pair])) for pair in true])
        rows.append({"method": method, "seconds": round(seconds, 1), "energy_distance": round(float(error), 4)})
        print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    path = pathlib.Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    print(f"split {SPLIT.value}, {case.train.num_conditions} training conditions; table in {path}")


if __name__ == "__main__":
    app.run(main)

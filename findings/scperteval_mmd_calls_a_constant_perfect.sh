#!/usr/bin/env bash
# scPertEval's MMD is 0, its best value, for a constant prediction far from all cells, if it has enough rows.
#
# Guess: the MMD of a prediction that is 50 standard deviations off is near its largest value, however many cells
# are predicted.
# Found: the bandwidth is the median of the pooled distances. Once equal rows make up more than half of all pairs
# (300 equal rows against 100 measured cells) the median is 0, and the metric then returns 0. With 200 rows it is
# 1.6. Sparse genes can do the same. A baseline that repeats a mean must not have many more rows than the test
# cells.
# Versions: scperteval 0.2.0, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   rows 200: unbiased_mmd_median_top_k=10 1.605, energy_distance_top_k=10 299
#   rows 300: unbiased_mmd_median_top_k=10 0.0, energy_distance_top_k=10 299
# Source: Virtual-Cell-Research-Community/scPertEval, scperteval/protocols/metrics.py (unbiased_mmd_median: `sigma
# <= 0` returns 0.0).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile scperteval==0.2.0 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import anndata
import numpy as np
import pandas as pd
import scperteval

rng = np.random.default_rng(0)
names = ["control", "A", "B", "C"]


def cells(values, labels):
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(values.astype("float32"), obs=obs)


measured = cells(np.vstack([rng.normal(i, 1, (100, 20)) for i in range(4)]), np.repeat(names, 100))
handle = scperteval.prepare(measured, ["mse"])
found = {}
for rows in (200, 300):
    predicted = cells(np.full((3 * rows, 20), 50.0), np.repeat(names[1:], rows))
    for metric in ("unbiased_mmd_median_top_k=10", "energy_distance_top_k=10"):
        found[rows, metric[:3]] = scperteval.score(handle, metric, predicted).aggregate["mean"]
    mmd, energy = found[rows, "unb"], found[rows, "ene"]
    print(f"rows {rows}: unbiased_mmd_median_top_k=10 {mmd:.4}, energy_distance_top_k=10 {energy:.0f}")
assert found[200, "unb"] > 1 and found[300, "unb"] == 0 and found[300, "ene"] > 100
PY

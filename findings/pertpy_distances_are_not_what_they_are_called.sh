#!/usr/bin/env bash
# Three distances of pertpy: "mmd" compares means only, "root_mean_squared_error" is not the root of "mse", and
# "wasserstein" of a sample with itself is not 0.
#
# Guess: mmd tells distributions of one mean apart; root_mean_squared_error squared is mse; a distance of equal
# samples is 0.
# Found: mmd has a linear kernel by default, which makes it the squared distance of the means, so that ten times the
# spread is not seen; root_mean_squared_error is the Euclidean distance, larger than the root of mse by the root of
# the number of genes; wasserstein is the regularised cost of Sinkhorn's algorithm, not debiased.
# Versions: pertpy 1.0.3, filelock 4.2.11, statsmodels 0.14.6, numpy 2.4.6, Python 3.11.
# Output seen:
#   mmd, ten times the spread: 0.0 (edistance 9.4)
#   root_mean_squared_error 2.236, root of mse 1.0
#   wasserstein of a sample with itself: 1.6
# Source: scverse/pertpy, pertpy/tools/_distances/_distances.py (MMD, EuclideanDistance, MeanSquaredDistance,
# WassersteinDistance).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile pertpy==1.0.3 filelock==4.2.11 statsmodels==0.14.6 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
from pertpy.tools import Distance

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 5))
x -= x.mean(0)


def distance(name, other):
    return float(Distance(name, obsm_key="X_pca")(x, other))


mmd, energy = distance("mmd", 10 * x), distance("edistance", 10 * x)
rmse, mse = distance("root_mean_squared_error", x + 1), distance("mse", x + 1)
itself = distance("wasserstein", x)
print(f"mmd, ten times the spread: {abs(mmd):.1f} (edistance {energy:.1f})")
print(f"root_mean_squared_error {rmse:.3f}, root of mse {mse ** 0.5:.1f}")
print(f"wasserstein of a sample with itself: {itself:.1f}")
assert abs(mmd) < 1e-6 < 1 < energy and np.isclose(rmse, 5**0.5) and np.isclose(mse, 1) and itself > 1
PY

#!/usr/bin/env bash
# "energy_distance" is another number in scipy, dcor and scPertEval for the same two samples.
#
# Guess: functions of this name agree, up to rounding.
# Found: scipy returns the square root of the energy distance, dcor the V form, scPertEval the U form, which can be
# negative.
# Versions: scperteval 0.2.0, dcor 0.7, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   scipy 0.93, dcor 0.865, scPertEval 0.822
#   scipy squared minus dcor: 0.0
#   four times the unit: scipy 2.0 times, dcor 4.0 times
# Source: documentation of scipy.stats.energy_distance (the square root in its formula); vnmabus/dcor,
# dcor/_energy.py; Virtual-Cell-Research-Community/scPertEval, scperteval/protocols/metrics.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile \
    scperteval==0.2.0 dcor==0.7 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import dcor
import numpy as np
import scipy.stats
from scperteval.protocols import metrics

rng = np.random.default_rng(0)
x, y = rng.normal(0, 1, 40), rng.normal(1, 1, 60)
root, v_form = scipy.stats.energy_distance(x, y), float(dcor.energy_distance(x, y))
u_form = metrics.energy_distance(x[:, None], y[:, None], None)
print(f"scipy {root:.3}, dcor {v_form:.3}, scPertEval {u_form:.3}")
print("scipy squared minus dcor:", round(abs(root**2 - v_form), 6))
roots, v_forms = scipy.stats.energy_distance(4 * x, 4 * y) / root, float(dcor.energy_distance(4 * x, 4 * y)) / v_form
print(f"four times the unit: scipy {roots:.1f} times, dcor {v_forms:.1f} times")
assert np.isclose(root**2, v_form) and v_form - u_form > 0.02 and np.allclose([roots, v_forms], [2, 4])
PY

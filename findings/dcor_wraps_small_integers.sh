#!/usr/bin/env bash
# dcor computes the energy distance of counts in the integer type that they are stored in, and overflows.
#
# Guess: counts stored as uint16 (or uint8) have the energy distance of the same counts as float.
# Found: differences are squared in the stored type: a difference of 300 is 90,000, which uint16 holds as 24,464.
# The result is too small, without a warning.
# Versions: dcor 0.7, numpy 2.4.6, Python 3.11.
# Output seen:
#   float 596.2, uint16 307.2
# Source: vnmabus/dcor, dcor/distances.py (squares of x - y without a conversion of integers).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile dcor==0.7 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import dcor
import numpy as np

control, perturbed = np.array([[0], [2], [1]]), np.array([[300], [301], [299]])
distance = {}
for kind in ("float", "uint16"):
    distance[kind] = float(dcor.energy_distance(control.astype(kind), perturbed.astype(kind)))
print(", ".join(f"{kind} {value:.1f}" for kind, value in distance.items()))
assert distance["float"] > 590 and distance["uint16"] < 400
PY

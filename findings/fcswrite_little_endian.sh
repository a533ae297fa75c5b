#!/usr/bin/env bash
# fcswrite with endianness="little" writes big-endian values under a little-endian header.
#
# Guess: the option changes the order of bytes in the file and in its header, so any reader finds the values.
# Found: only the keyword $BYTEORD changes, the data are packed big-endian always, so that 5, 12 and 300 are read as
# numbers below 1e-38. The default ("big") is right.
# Versions: fcswrite 0.6.4, flowio 1.4.0, numpy 2.4.6, Python 3.11.
# Output seen:
#   big:    [5.0, 12.0, 300.0]
#   little: all below 1e-38: True
# Source: DC-analysis/fcswrite, fcswrite/fcswrite.py: struct.pack with '>' whatever `endianness` is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile fcswrite==0.6.4 flowio==1.4.0 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import fcswrite
import flowio
import numpy as np

values = np.array([[5.0], [12.0], [300.0]])
read = {}
for order in ("big", "little"):
    fcswrite.write_fcs("cells.fcs", ["CD4"], values, endianness=order)
    read[order] = flowio.FlowData("cells.fcs").as_array()[:, 0]
print("big:   ", read["big"].tolist())
print("little: all below 1e-38:", bool((np.abs(read["little"]) < 1e-38).all()))
assert (read["big"] == values[:, 0]).all() and (np.abs(read["little"]) < 1e-38).all()
PY

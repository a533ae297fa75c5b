#!/usr/bin/env bash
# fcswrite changes the values and the names of channels that it writes.
#
# Guess: write_fcs stores the numbers it is given under the names it is given.
# Found: by default a channel within 0 to 1 is multiplied by 100, one with a negative mean (a centred or
# arcsinh-transformed marker) changes its sign, and spaces, underscores and question marks leave the names, in the
# caller's list too. The switches are compat_percent, compat_negative and compat_chn_names.
# Versions: fcswrite 0.6.4, flowio 1.4.0, numpy 2.4.6, Python 3.11.
# Output seen:
#   given: {'share_dead': [0.25, 0.5], 'p STAT3': [-3.0, -1.0]}
#   read:  {'sharedead': [25.0, 50.0], 'pSTAT3': [3.0, 1.0]}
#   caller's names: ['sharedead', 'pSTAT3']
# Source: DC-analysis/fcswrite, fcswrite/fcswrite.py (docstring of write_fcs, the compat_ arguments).
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

names, values = ["share_dead", "p STAT3"], np.array([[0.25, -3.0], [0.5, -1.0]])
print("given:", dict(zip(names, values.T.tolist())))
fcswrite.write_fcs("cells.fcs", names, values)
content = flowio.FlowData("cells.fcs")
read = dict(zip(content.pnn_labels, content.as_array().T.tolist()))
print("read: ", read)
print("caller's names:", names)
assert read == {"sharedead": [25.0, 50.0], "pSTAT3": [3.0, 1.0]} and names == ["sharedead", "pSTAT3"]
PY

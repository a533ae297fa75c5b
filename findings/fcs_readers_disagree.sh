#!/usr/bin/env bash
# FlowIO and fcsparser read other values from one valid FCS file.
#
# Guess: two readers of one standard give the same numbers, the values on the linear scale of the instrument.
# Found: FlowIO applies the gain ($PnG), the time step and the logarithmic amplification ($PnE) unless told
# otherwise; fcsparser returns what is stored. A model fitted on one reader's table and tested on the other's sees
# values off by a factor, or by an exponential.
# Versions: flowio 1.4.0, fcsparser 0.2.8, six 1.17.0, numpy 1.26.4, pandas 2.3.3, Python 3.11.
# Output seen:
#   gain 2 and time step 0.01: FlowIO [50.0, 2.0], fcsparser [100.0, 200.0]
#   $P1E of 4,1 on integers: FlowIO [2.458, 200.0], fcsparser [100.0, 200.0]
# Source: whitews/FlowIO, src/flowio/flowdata.py (as_array, preprocess=True); eyurtsev/fcsparser, fcsparser/api.py
# (read_data). fcsparser needs `six`, which it does not declare.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile flowio==1.4.0 fcsparser==0.2.8 six==1.17.0 numpy==1.26.4 pandas==2.3.3
venv/bin/python -W ignore - <<'PY'
import pathlib

import fcsparser
import flowio
import numpy as np


def write(path, rows, kind, extra):
    bits, stored = (32, "<f4") if kind == "F" else (16, "<u2")
    values = np.asarray(rows, stored).tobytes()
    keys = {"$BEGINANALYSIS": 0, "$ENDANALYSIS": 0, "$BEGINSTEXT": 0, "$ENDSTEXT": 0, "$BYTEORD": "1,2,3,4",
            "$DATATYPE": kind, "$MODE": "L", "$NEXTDATA": 0, "$PAR": 2, "$TOT": len(rows)}
    for i, name in ((1, "FL1"), (2, "Time")):
        keys |= {f"$P{i}N": name, f"$P{i}B": bits, f"$P{i}R": 1024, f"$P{i}E": "0,0"}
    keys |= extra | {"$BEGINDATA": "00001024", "$ENDDATA": f"{1023 + len(values):08}"}
    text = "/" + "".join(f"{key}/{value}/" for key, value in keys.items())
    places = 256, 255 + len(text), 1024, 1023 + len(values), 0, 0
    header = "FCS3.1    " + "".join(f"{place:8}" for place in places)
    pathlib.Path(path).write_bytes((header.ljust(256) + text).ljust(1024).encode() + values)


seen = []
for title, kind, extra in (
    ("gain 2 and time step 0.01", "F", {"$P1G": 2, "$TIMESTEP": 0.01}),
    ("$P1E of 4,1 on integers", "I", {"$P1E": "4,1"}),
):
    write("cells.fcs", [[100, 200], [300, 500]], kind, extra)
    one = flowio.FlowData("cells.fcs").as_array()[0].round(3).tolist()
    other = fcsparser.parse("cells.fcs")[1].to_numpy()[0].tolist()
    print(f"{title}: FlowIO {one}, fcsparser {other}")
    seen.append((one, other))
assert seen == [([50.0, 2.0], [100.0, 200.0]), ([2.458, 200.0], [100.0, 200.0])]
PY

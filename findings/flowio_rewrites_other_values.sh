#!/usr/bin/env bash
# Reading an FCS file with FlowIO and writing it again changes the values.
#
# Guess: FlowData(file).write_fcs(copy) makes a file that reads as the first one does.
# Found: as_array divides by the gain $PnG and multiplies the time by $TIMESTEP; write_fcs stores the raw events of
# a floating-point file and leaves both keywords out. Here a channel of gain 2 doubles and the time is 100 times as
# large.
# Versions: flowio 1.4.0, numpy 2.4.6, Python 3.11.
# Output seen:
#   first file: [[50.0, 2.0], [150.0, 5.0]]
#   its copy:   [[100.0, 200.0], [300.0, 500.0]]
# Source: whitews/FlowIO, src/flowio/flowdata.py (as_array and write_fcs, whose remark names $PnG as open).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile flowio==1.4.0 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import pathlib

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


write("first.fcs", [[100, 200], [300, 500]], "F", {"$P1G": 2, "$TIMESTEP": 0.01})
flowio.FlowData("first.fcs").write_fcs("copy.fcs")
first, copy = (flowio.FlowData(name).as_array().tolist() for name in ("first.fcs", "copy.fcs"))
print("first file:", first)
print("its copy:  ", copy)
assert first == [[50.0, 2.0], [150.0, 5.0]] and copy == [[100.0, 200.0], [300.0, 500.0]]
PY

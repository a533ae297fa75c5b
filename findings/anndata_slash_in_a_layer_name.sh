#!/usr/bin/env bash
# A layer whose name has a slash is written to .h5ad without an error, and the file can't be read any more.
#
# Guess: the name is refused, escaped, or read back as it was written.
# Found: only a warning about a later version; the slash makes a group inside the file, and reading ends in an
# AttributeError about a dict. A column of obs with such a name does come back, and .zarr refuses the name at once.
# Versions: anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   written: True
#   read: AttributeError: 'dict' object has no attribute 'shape'
# Source: scverse/anndata, src/anndata/_io/specs/registry.py (write_elem: a warning for HDF5, an error for zarr).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import pathlib

import anndata
import numpy as np

adata = anndata.AnnData(np.ones((2, 2)))
adata.layers["log/counts"] = np.zeros((2, 2))
adata.write_h5ad("cells.h5ad")
print("written:", pathlib.Path("cells.h5ad").exists())
try:
    anndata.read_h5ad("cells.h5ad")
except Exception as error:
    name, message = type(error).__name__, str(error).splitlines()[0]
else:
    name, message = "none", "it was read"
print(f"read: {name}: {message}")
assert name == "AttributeError"
PY

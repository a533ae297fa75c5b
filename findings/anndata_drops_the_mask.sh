#!/usr/bin/env bash
# AnnData keeps a masked array as X and drops the mask when it is sliced or written.
#
# Guess: masked values stay masked, become NaN, or the array is refused.
# Found: X is a masked array until cells are selected or the file is written; then the values under the mask (here
# 999) are measurements.
# Versions: anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   in memory: [-- 1.0]
#   after a selection of cells: [999.0, 1.0]
#   after writing and reading: [999.0, 1.0]
# Source: scverse/anndata, src/anndata/_core/anndata.py (a masked X is let through) and _core/views.py (ArrayView, a
# bare array).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import anndata
import numpy as np

adata = anndata.AnnData(np.ma.masked_values([[999.0, 1.0], [2.0, 3.0]], 999.0))
print("in memory:", adata.X[0])
assert adata.X[0, 0] is np.ma.masked
selected = np.asarray(adata[:1].X)[0].tolist()
masked_still = np.ma.is_masked(adata[:1].X)
print("after a selection of cells:", selected)
adata.write_h5ad("cells.h5ad")
written = anndata.read_h5ad("cells.h5ad").X[0].tolist()
print("after writing and reading:", written)
assert not masked_still and selected == written == [999.0, 1.0]
PY

#!/usr/bin/env bash
# AnnData takes a table of cells, and a mask of cells, by position although both carry the cells' names.
#
# Guess: as in pandas, names decide: adata.obs = adata.obs.sort_values("dose") reorders the cells or is refused, and
# a boolean Series picks the cells that it names.
# Found: the sorted table is laid over the unsorted matrix, so that cells get the name, dose and perturbation of
# others, and a mask in another order picks other cells. Nothing is said. (obsm refuses a table in another order.)
# Versions: anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   adata.obs = sorted: value of cell c: 1.0 (it was 2.0)
#   mask that names cell c picks ['a'], pandas ['c']
# Source: scverse/anndata, src/anndata/_core/anndata.py (_set_dim_df: only the length is compared) and
# _core/index.py (_normalize_index: a Series becomes its bare values).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import anndata
import numpy as np
import pandas as pd

obs = pd.DataFrame({"dose": [1, 2, 1]}, index=["a", "b", "c"])
adata = anndata.AnnData(np.array([[0.0], [1.0], [2.0]]), obs=obs)

mask = pd.Series([True, False, False], index=["c", "b", "a"])
picked = list(adata[mask].obs_names)
by_name = list(obs[mask.reindex(obs.index)].index)

before = float(adata["c"].X[0, 0])
adata.obs = adata.obs.sort_values("dose")
after = float(adata["c"].X[0, 0])
print(f"adata.obs = sorted: value of cell c: {after} (it was {before})")
print(f"mask that names cell c picks {picked}, pandas {by_name}")
assert (before, after) == (2.0, 1.0) and picked == ["a"] and by_name == ["c"]
PY

#!/usr/bin/env bash
# What anndata.concat(join="outer") writes for a gene that one file has not measured depends on how the files store
# X.
#
# Guess: an unmeasured gene is missing (NaN), or there is one documented value.
# Found: NaN if every X is dense, 0 if any one is sparse: then the dense file's unmeasured genes are 0 too, which
# reads as measured and not expressed. Pass fill_value=numpy.nan.
# Versions: anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   dense and dense: nan
#   sparse and sparse: 0.0
#   dense and sparse: 0.0
# Source: scverse/anndata, src/anndata/_core/merge.py (default_fill_value).
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
from scipy import sparse


def file(genes, kind):
    return anndata.AnnData(kind(np.ones((1, 2))), obs=pd.DataFrame(index=[genes[0]]), var=pd.DataFrame(index=genes))


filled = {}
for title, kinds in {
    "dense and dense": (np.asarray, np.asarray),
    "sparse and sparse": (sparse.csr_matrix, sparse.csr_matrix),
    "dense and sparse": (np.asarray, sparse.csr_matrix),
}.items():
    joined = anndata.concat([file(["CD3", "CD4"], kinds[0]), file(["CD4", "CD8"], kinds[1])], join="outer")
    filled[title] = float(joined["CD3"].to_df()["CD8"].iloc[0])
    print(f"{title}: {filled[title]}")
assert np.isnan(filled["dense and dense"]) and filled["sparse and sparse"] == 0 and filled["dense and sparse"] == 0
PY

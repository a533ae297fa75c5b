#!/usr/bin/env bash
# scanpy's log fold change can have the other sign than the change of the mean.
#
# Guess: logfoldchanges of rank_genes_groups is log2 of the ratio of mean expression.
# Found: it is the ratio of expm1(mean(log1p(x))), a kind of geometric mean. A gene that a perturbation doubles on
# average, by strong expression in a tenth of the cells, is reported as eight times lower.
# Versions: scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, Python 3.11.
# Output seen:
#   log2 ratio of means: 1.0
#   reported:            -3.1
# Source: scverse/scanpy, src/scanpy/tools/_rank_genes_groups.py (foldchanges: expm1_func of the means of the
# logarithms).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import anndata
import numpy as np
import scanpy

control, perturbed = np.full(50, 5.0), np.r_[np.full(5, 100.0), np.zeros(45)]
counts = np.column_stack([np.r_[control, perturbed], np.tile([4.0, 6.0], 50)])
adata = anndata.AnnData(counts)
adata.obs["perturbation"] = ["control"] * 50 + ["A"] * 50
truth = np.log2(perturbed.mean() / control.mean())
scanpy.pp.log1p(adata)
scanpy.tl.rank_genes_groups(adata, "perturbation", reference="control", method="wilcoxon")
reported = float(scanpy.get.rank_genes_groups_df(adata, "A").set_index("names").loc["0", "logfoldchanges"])
print("log2 ratio of means:", round(truth, 1))
print("reported:           ", round(reported, 1))
assert round(truth, 1) == 1.0 and reported < -3
PY

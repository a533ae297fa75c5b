#!/usr/bin/env bash
# In cell-eval2 a prediction that equals the measured cells scores -1, the worst value, where every gene responds.
#
# Guess: the same file on both sides scores best in every metric, or a metric that is not defined is left out.
# Found: de_wilcoxon_precision_adjusted is -1 when the prediction calls all genes significant, though all of them
# are; the other chance-corrected metrics are left out there. A panel of few markers gets there easily.
# Versions: cell-eval2 0.20.0, polars 2.1.0, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy
# 1.17.1, Python 3.11.
# Output seen:
#   de_wilcoxon_precision 1.0
#   de_wilcoxon_precision_adjusted -1.0
#   de_wilcoxon_sig_jaccard 1.0
# Source: package cell-eval2, cell_eval2/metrics/de.py (_markedness) and cell_eval2/catalog.py (the metric is not
# left out by what the reference holds).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile \
    cell-eval2==0.20.0 polars==2.1.0 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import anndata
import cell_eval2
import numpy as np
import pandas as pd

rng = np.random.default_rng(0)
labels = np.repeat(["control", "A", "B"], 100)
values = np.abs(rng.normal(3, 0.2, (300, 12))) + 1.0 * (labels == "A")[:, None] - 1.0 * (labels == "B")[:, None]
obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(300)])
cells = anndata.AnnData(values.astype("float32"), obs=obs, var=pd.DataFrame(index=[f"marker{i}" for i in range(12)]))
names = [f"de_wilcoxon_{name}" for name in ("precision", "precision_adjusted", "sig_jaccard")]
config = cell_eval2.EvalConfig(
    metrics=names, pert_col="perturbation", control="control", input_type="lognorm", target_gene_map={"*": None}
)
rows = cell_eval2.compute_metrics(cells, cells.copy(), config=config).to_dicts()
found = {name: [row["value"] for row in rows if row["metric"] == name] for name in names}
for name, values in found.items():
    print(name, values[0])
assert found == {names[0]: [1.0, 1.0], names[1]: [-1.0, -1.0], names[2]: [1.0, 1.0]}
PY

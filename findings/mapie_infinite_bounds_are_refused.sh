#!/usr/bin/env bash
# MAPIE's allow_infinite_bounds has no effect for the default (symmetric) score of split conformal regression.
#
# Guess: with too few calibration cells for the level, allow_infinite_bounds=True gives an interval without ends.
# Found: it raises that there are too few samples, as without the option; the asymmetric score gives the infinite
# interval.
# Versions: mapie 1.6.0, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Output seen:
#   symmetric: ValueError
#   asymmetric: [-inf, inf]
# Source: documentation of mapie.regression.SplitConformalRegressor.predict_interval; scikit-learn-contrib/MAPIE,
# mapie/conformity_scores/regression.py (get_bounds).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile mapie==1.6.0 scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python -W ignore - <<'PY'
import numpy as np
from mapie.conformity_scores import AbsoluteConformityScore
from mapie.regression import SplitConformalRegressor
from sklearn.dummy import DummyRegressor

x, y = np.arange(5.0)[:, None], np.array([0.0, 1.0, -1.0, 2.0, -2.0])
model = DummyRegressor(strategy="constant", constant=0.0).fit(x, y)
found = {}
for title, symmetric in (("symmetric", True), ("asymmetric", False)):
    score = AbsoluteConformityScore(sym=symmetric)
    split = SplitConformalRegressor(model, confidence_level=0.95, conformity_score=score, prefit=True)
    split.conformalize(x, y)
    try:
        found[title] = split.predict_interval(x[:1], allow_infinite_bounds=True)[1].ravel().tolist()
    except ValueError as error:
        found[title] = type(error).__name__
    print(f"{title}: {found[title]}")
assert found == {"symmetric": "ValueError", "asymmetric": [-np.inf, np.inf]}
PY

#!/usr/bin/env bash
# create_study of optuna with load_if_exists ignores the direction that it is given.
#
# Guess: opening a study that minimises with direction="maximize" is refused, or maximises.
# Found: it goes on minimising without a word, so that best_trial of a score is the worst one.
# Versions: optuna 5.0.0, Python 3.11.
# Output seen:
#   asked for maximize, found MINIMIZE; best value of 1, 2, 3: 1.0
# Source: documentation of optuna.create_study (load_if_exists); optuna/optuna, optuna/study/study.py (on a
# duplicated name the stored study is returned as it is).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile optuna==5.0.0
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
stored = {"storage": "sqlite:///study.db", "study_name": "sweep", "load_if_exists": True}
optuna.create_study(**stored)
study = optuna.create_study(direction="maximize", **stored)
study.optimize(lambda trial: trial.number + 1.0, n_trials=3)
print(f"asked for maximize, found {study.direction.name}; best value of 1, 2, 3: {study.best_value}")
assert study.direction.name == "MINIMIZE" and study.best_value == 1.0
PY

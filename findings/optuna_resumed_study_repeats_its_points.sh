#!/usr/bin/env bash
# A study of optuna that is continued with the same seed tries the same points again.
#
# Guess: create_study(load_if_exists=True) with a seeded sampler goes on where it stopped: 3 + 3 trials are the 6
# trials of one go.
# Found: the state of the sampler isn't stored, so that the second process draws from the beginning: all three
# points are computed twice. Make the seed depend on the number of trials in the study.
# Versions: optuna 5.0.0, Python 3.11.
# Output seen:
#   one go:    [0.549, 0.715, 0.603, 0.545, 0.424, 0.646]
#   resumed:   [0.549, 0.715, 0.603, 0.549, 0.715, 0.603]
# Source: documentation of optuna, tutorial on saving and resuming a study with an RDB backend: the sampler must be
# saved by the user.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile optuna==5.0.0
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)


def go(trials, **storage):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), **storage)
    study.optimize(lambda trial: trial.suggest_float("rate", 0, 1), n_trials=trials)
    return [round(trial.params["rate"], 3) for trial in study.trials]


stored = {"storage": "sqlite:///study.db", "study_name": "sweep", "load_if_exists": True}
whole, _, resumed = go(6), go(3, **stored), go(3, **stored)
print("one go:   ", whole)
print("resumed:  ", resumed)
assert len(set(whole)) == 6 and resumed == whole[:3] * 2
PY

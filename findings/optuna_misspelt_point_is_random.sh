#!/usr/bin/env bash
# A point queued in optuna under a misspelt name is replaced by a random one.
#
# Guess: enqueue_trial({"learning_rat": 0.1}) is refused, or the trial fails, when the objective asks for
# learning_rate.
# Found: the name that nobody asks for stays in the trial's system attributes, and the setting is sampled as if
# nothing had been queued. The table of trials shows a trial that looks like any other.
# Versions: optuna 5.0.0, Python 3.11.
# Output seen:
#   queued 0.1, tried 0.549, state COMPLETE
# Source: documentation of optuna.study.Study.enqueue_trial (parameters that are not given are sampled);
# optuna/optuna, optuna/trial/_trial.py (_is_fixed_param).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile optuna==5.0.0
venv/bin/python -W ignore - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
study.enqueue_trial({"learning_rat": 0.1})
study.optimize(lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=1)
(trial,) = study.trials
tried = round(trial.params["learning_rate"], 3)
print(f"queued 0.1, tried {tried}, state {trial.state.name}")
assert tried == 0.549 and trial.state.name == "COMPLETE"
PY

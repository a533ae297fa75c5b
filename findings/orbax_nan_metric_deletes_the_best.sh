#!/usr/bin/env bash
# One NaN among the metrics makes orbax's CheckpointManager delete the best checkpoint.
#
# Guess: with best_fn, best_mode="min" and max_to_keep=2 the steps with the two lowest errors stay, and a step whose
# error is NaN is the worst.
# Found: errors 1, NaN, 5 at the steps 0, 1, 2 leave the steps 1 and 2, and best_step() is 2, the worst of all; the
# step with error 1 is deleted. The order decides: NaN, 1, 5 keeps 1. Pass a best_fn that returns infinity for NaN.
# Versions: jax 0.10.2, jaxlib 0.10.2, orbax-checkpoint 0.12.8, Python 3.11.
# Output seen:
#   errors [1.0, nan, 5.0]: kept [1, 2], best 2
#   errors [nan, 1.0, 5.0]: kept [1, 2], best 1
#   errors [1.0, inf, 5.0]: kept [0, 2], best 0
# Source: google/orbax, checkpoint/orbax/checkpoint/checkpoint_manager.py (_sort_checkpoints_by_metrics) and
# _src/checkpoint_managers/preservation_policy.py (BestN): sorted() by the bare metric, which NaN leaves unsorted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile jax==0.10.2 jaxlib==0.10.2 orbax-checkpoint==0.12.8
venv/bin/python -W ignore - <<'PY'
import pathlib
import tempfile

import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

logging.set_verbosity(logging.ERROR)
nan, inf = float("nan"), float("inf")
expected = [([1.0, nan, 5.0], [1, 2], 2), ([nan, 1.0, 5.0], [1, 2], 1), ([1.0, inf, 5.0], [0, 2], 0)]
for errors, kept, best in expected:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, best_fn=lambda metrics: metrics["error"], best_mode="min")
    with ocp.CheckpointManager(tempfile.mkdtemp(dir=pathlib.Path.cwd()), options=options) as manager:
        for step, error in enumerate(errors):
            manager.save(step, args=ocp.args.StandardSave({"w": jnp.ones(2)}), metrics={"error": error})
        manager.wait_until_finished()
        print(f"errors {errors}: kept {manager.all_steps()}, best {manager.best_step()}")
        assert (manager.all_steps(), manager.best_step()) == (kept, best)
PY

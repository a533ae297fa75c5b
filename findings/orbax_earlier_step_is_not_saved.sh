#!/usr/bin/env bash
# A CheckpointManager of orbax saves nothing at a step below the latest one, and raises nothing.
#
# Guess: after restoring step 2 of a run that has reached step 5, and training on with other settings, step 3 is
# saved; or there is an error.
# Found: save returns False and writes nothing for every step up to 5, so work done after going back is lost when
# the process ends; only force=True writes it.
# Versions: jax 0.10.2, jaxlib 0.10.2, orbax-checkpoint 0.12.8, Python 3.11.
# Output seen:
#   step 3 after step 5: saved False, steps [2, 5]
#   the same with force=True: saved True, steps [2, 3, 5]
# Source: google/orbax, checkpoint/orbax/checkpoint/checkpoint_manager.py (should_save and save): a step counts only
# if it is above the latest one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile jax==0.10.2 jaxlib==0.10.2 orbax-checkpoint==0.12.8
venv/bin/python -W ignore - <<'PY'
import pathlib

import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

logging.set_verbosity(logging.ERROR)
weights = ocp.args.StandardSave({"w": jnp.ones(2)})
with ocp.CheckpointManager(pathlib.Path.cwd() / "run") as manager:
    for step in (2, 5):
        assert manager.save(step, args=weights)
    manager.wait_until_finished()
    manager.restore(2)
    for title, options, saved, steps in (
        ("step 3 after step 5", {}, False, [2, 5]),
        ("the same with force=True", {"force": True}, True, [2, 3, 5]),
    ):
        found = manager.save(3, args=weights, **options)
        manager.wait_until_finished()
        print(f"{title}: saved {found}, steps {sorted(manager.all_steps())}")
        assert found == saved and sorted(manager.all_steps()) == steps
PY

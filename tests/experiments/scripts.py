"""A small config, and how tests call a script of the repository."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
from experiments.configs import simulated

def get_config(arg="default"):
    config = simulated.get_config("smoke")
    config.data.update(latent_dim=2, observed_dim=4, num_perturbations=3, cells_per_condition=60)
    config.data.labels = ("p0", "p1", "p2", "p0+p1", "p1+p2", "p0+p2")
    config.split.validation, config.split.test = ("p1+p2",), ("p0+p2",)
    config.fit.update(num_steps=2, log_every=2, eval_every=2, checkpoint_every=2, hidden=(8,))
    config.evaluation.update(baselines=("additive",), metrics=("energy_distance", "mean_l2"))
    return config

def get_sweep():
    yield {"fit.latent_dim": 1}
    yield {"fit.latent_dim": 2}

def get_space():
    return {"fit.latent_dim": [1, 2], "fit.learning_rate": ("log", 1e-3, 1e-1), "fit.cells_per_source": ("int", 4, 6)}
"""


def call(script, *arguments, status=0):
    """What a script printed; stderr too where it is to fail."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "experiments" / script), *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr

"""A small config, and how tests call a script of the repository."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

from pdae_jax.cli.command import Call, execute
from pdae_jax.cli.main import COMMANDS

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
    """What a script printed, called in this process; stderr too where it is to fail."""
    name = script.removesuffix(".py")
    module = importlib.import_module(f"pdae_jax.cli.{name}" if name in COMMANDS else f"experiments.{name}")
    asked = Call(("python", f"experiments/{script}"), tuple(map(str, arguments)))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(REPOSITORY), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            ended = execute(module, asked)
        except SystemExit as error:
            ended = error.code
    assert ended == status, err.getvalue()
    return out.getvalue() if status == 0 else out.getvalue() + err.getvalue()


def call_process(script, *arguments, status=0):
    """The same in a process of its own, as people call it."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "experiments" / script), *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stdout + done.stderr

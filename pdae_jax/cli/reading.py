"""Data and runs as commands read them: people see what is read, and from where."""

import contextlib
from typing import Any

from pdae_jax import build
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.runs.track import stage
from pdae_jax.training.load import load_model


def read_data(config: Any) -> build.Experiment:
    """Read the data that a config defines, and split them."""
    with reading(config):
        return build.experiment(config)


def reading(config: Any) -> contextlib.AbstractContextManager[None]:
    """Say, while the data of a config are read, which these are, and how long it takes."""
    path = config.data.get("path") or config.data.get("sheet")
    return stage(True, f"Reading {path}" if path else f"Making the data set {config.data.name!r}")


def read_run(workdir: str, store: str | None = None) -> Fitted | Ensemble:
    """Load the model of a run folder, with its cells from `store` where these have been moved."""
    with stage(True, f"Reading the run in {workdir}"):
        return load_model(workdir, store=store)

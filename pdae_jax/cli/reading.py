"""Data and runs as commands read them: people see what is read, and from where."""

from typing import Any

from pdae_jax import build
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.runs.track import stage
from pdae_jax.training.restore import load_model


def read_data(config: Any) -> build.Experiment:
    """What a config defines."""
    path = config.data.get("path") or config.data.get("sheet")
    with stage(True, f"Reading {path}" if path else f"Making the data set {config.data.name!r}"):
        return build.experiment(config)


def read_run(workdir: str, store: str | None = None) -> Fitted | Ensemble:
    """The model of a run folder, with its cells from `store` where these have been moved."""
    with stage(True, f"Reading the run in {workdir}"):
        return load_model(workdir, store=store)

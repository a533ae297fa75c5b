"""A fitted model, read back from the folder of its run."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pdae_jax.compiled import as_written
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.store import load_data
from pdae_jax.runs.track import read_metrics
from pdae_jax.training.ensemble import ensemble_of, replica_folder
from pdae_jax.training.loop import fitted_of
from pdae_jax.training.prepare import LoopState, outline, step_of
from pdae_jax.training.reduction import with_components
from pdae_jax.types import PerturbationData


@as_written()
def load_run(workdir: str | pathlib.Path) -> Fitted:
    """The fitted model of a run folder, as `fit` returned it; the folder is only read.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
        ValueError: the run is an ensemble.
    """
    record = read_record(workdir)
    if "num_replicas" in record.identity:
        raise ValueError(f"The run in {str(record.path)!r} is an ensemble. Read it with pdae_jax.load_ensemble.")
    return _fitted(record)


def _fitted(record: "Record") -> Fitted:
    _, components = with_components(record.recipe, record.train, record.path)
    frame, shapes = outline(record.key, record.train, record.validation, record.recipe, record.source, components)
    state, entries = read_state(record.path, shapes)
    return fitted_of(frame, state, record.train, record.validation, entries, record.path)


class Record(NamedTuple):
    """What a run folder says about the fit that made it."""

    path: pathlib.Path
    identity: dict[str, Any]
    key: Array
    train: PerturbationData
    validation: PerturbationData | None
    recipe: Recipe
    source: dict[str, str] | None


def read_record(workdir: str | pathlib.Path, like: Record | None = None) -> Record:
    """The inputs of the run in a folder; ``FileNotFoundError`` if it holds none. `like` has the same data."""
    path = pathlib.Path(workdir)
    if not (path / folder.CONFIG_FILE).exists():
        raise FileNotFoundError(f"No run in {str(path)!r}: it has no {folder.CONFIG_FILE}. Pass the workdir of a fit.")
    identity = folder.read_config(path)["identity"]
    return Record(
        path=path,
        identity=identity,
        key=jax.random.wrap_key_data(jnp.asarray(identity["key"], dtype=jnp.uint32)),
        train=like.train if like else load_data(path / folder.TRAIN_FILE),
        validation=like.validation if like else _validation(path, identity),
        recipe=Recipe.from_dict(identity["recipe"]),
        source=identity.get("source"),
    )


def _validation(path: pathlib.Path, identity: dict[str, Any]) -> PerturbationData | None:
    return load_data(path / folder.VALIDATION_FILE) if identity["data"]["validation"] else None


def read_state(path: pathlib.Path, shapes: LoopState) -> tuple[LoopState, list[dict[str, Any]]]:
    """The newest checkpoint, and the history up to it."""
    checkpoints = folder.Checkpoints(path / folder.CHECKPOINT_FOLDER, read_only=True)
    state = checkpoints.restore(shapes)
    checkpoints.close()
    return state, [e for e in read_metrics(path / folder.METRICS_FILE) if e["step"] <= step_of(state)]


@as_written()
def load_ensemble(workdir: str | pathlib.Path) -> Ensemble:
    """The ensemble of a run folder, as `fit_ensemble` returned it; the folder is only read.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
        ValueError: the run is a single fit.
    """
    record = read_record(workdir)
    if "num_replicas" not in record.identity:
        raise ValueError(f"The run in {str(record.path)!r} is a single fit. Read it with pdae_jax.load_run.")
    folders = [replica_folder(record.path, r) for r in range(record.identity["num_replicas"])]
    return ensemble_of(record.key, [_fitted(read_record(each, like=record)) for each in folders], record.path)


def load_model(workdir: str | pathlib.Path) -> Fitted | Ensemble:
    """What a run folder holds: `load_run` or `load_ensemble`, whichever fits."""
    return load_ensemble(workdir) if "num_replicas" in read_record(workdir).identity else load_run(workdir)

"""A fitted model, read back from the folder of its run."""

import contextlib
import pathlib
from typing import Any, NamedTuple

from jaxtyping import Array

from pdae_jax.compiled import as_door
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import key_of_fit, key_record, recorded_key
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.store import fingerprint, load_data
from pdae_jax.runs.track import read_metrics
from pdae_jax.training.ensemble import ensemble_of, replica_folder, replica_key
from pdae_jax.training.pilot import components_for
from pdae_jax.training.plan import Request, planned
from pdae_jax.training.prepare import outline
from pdae_jax.training.state import LoopState, fitted_of, step_of
from pdae_jax.types import PerturbationData

AnyPath = str | pathlib.Path


@as_door()
def load_run(workdir: AnyPath, *, store: AnyPath | None = None) -> Fitted:
    """Load the fitted model of a run folder, as `fit` returned it; the folder is only read.

    Args:
        workdir: folder of the run.
        store: where the cells are now, of data that were read with ``store=`` into a folder that has been moved.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
        ValueError: the run is an ensemble, or a part of the folder belongs to another run.
    """
    record = read_record(workdir, store=store)
    if "num_replicas" in record.identity:
        raise ValueError(f"The run in {str(record.path)!r} is an ensemble. Read it with pdae_jax.load_ensemble.")
    return _fitted(record)


def _fitted(record: "Record") -> Fitted:
    components = components_for(record.recipe.components, record.train, record.path)
    frame, shapes = outline(planned(record.request(record.path), components))
    state, entries = read_state(record.path, shapes)
    return fitted_of(frame, state, entries, record.path)


class Record(NamedTuple):
    """What a run folder says about the fit that made it."""

    path: pathlib.Path
    identity: dict[str, Any]
    key: Array
    train: PerturbationData
    validation: PerturbationData | None
    recipe: Recipe
    source: dict[str, str] | None

    @property
    def streams(self) -> int:
        """See `randomness.key_of_fit`."""
        return self.identity.get("streams", 1)

    @property
    def root(self) -> Array:
        """The key that all that the fit drew came from."""
        return key_of_fit(self.key, self.streams)

    def request(self, workdir: pathlib.Path) -> Request:
        """Ask for the same fit anew, in another folder."""
        return Request(
            *(self.train, self.key, self.recipe, self.validation, self.source, workdir),
            bootstrap=self.identity.get("bootstrap", False),
            streams=self.streams,
        )


def read_record(workdir: AnyPath, like: Record | None = None, store: AnyPath | None = None) -> Record:
    """Read the inputs of the run in a folder.

    Args:
        workdir: the folder.
        like: record of a run that has the same data.
        store: see `load_run`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: data of another run.
    """
    path = pathlib.Path(workdir)
    if not (path / folder.CONFIG_FILE).exists():
        raise FileNotFoundError(f"No run in {str(path)!r}: it has no {folder.CONFIG_FILE}. Pass the workdir of a fit.")
    identity = folder.read_config(path)["identity"]
    files = {"train": folder.TRAIN_FILE, "validation": folder.VALIDATION_FILE}
    found = {}
    for name, file in files.items():
        expected = identity["data"][name]
        if like is not None:
            found[name] = getattr(like, name)
        else:
            found[name] = None if expected is None else load_data(path / file, store)
        if fingerprint(found[name]) != expected:
            raise ValueError(folder.not_of_run(path / file))
    return Record(
        path=path,
        identity=identity,
        key=recorded_key(identity),
        **found,
        recipe=Recipe.from_dict(identity["recipe"]),
        source=identity.get("source"),
    )


def read_state(path: pathlib.Path, shapes: LoopState) -> tuple[LoopState, list[dict[str, Any]]]:
    """Read the newest checkpoint, and the history up to it."""
    run = folder.read_config(path)["hash"]
    checkpoints = folder.Checkpoints(path / folder.CHECKPOINT_FOLDER, run=run, read_only=True)
    with contextlib.closing(checkpoints):
        state = checkpoints.restore(shapes)
    return state, [e for e in read_metrics(path / folder.METRICS_FILE) if e["step"] <= step_of(state)]


@as_door()
def load_ensemble(workdir: AnyPath, *, store: AnyPath | None = None) -> Ensemble:
    """Load the ensemble of a run folder, as `fit_ensemble` returned it; the folder is only read.

    Args:
        workdir: folder of the run.
        store: as in `load_run`.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in the folder.
        ValueError: the run is a single fit, or a part of the folder belongs to another run.
    """
    record = read_record(workdir, store=store)
    if "num_replicas" not in record.identity:
        raise ValueError(f"The run in {str(record.path)!r} is a single fit. Read it with pdae_jax.load_run.")
    return _ensemble(record)


def _ensemble(record: Record) -> Ensemble:
    components_for(record.recipe.components, record.train, record.path)  # which are of this run, or refused
    replicas = [_replica(record, r) for r in range(record.identity["num_replicas"])]
    return ensemble_of(record.root, [_fitted(replica) for replica in replicas], record.path)


def _replica(record: Record, r: int) -> Record:
    """That of a replica; ``ValueError`` if its folder is not of this ensemble, or of another replica."""
    path = replica_folder(record.path, r)
    found = read_record(path, like=record)
    asked = {name: value for name, value in record.identity["recipe"].items() if value is not None}
    expected = {
        **key_record(replica_key(record.key, r)),
        **{name: record.identity.get(name) for name in ("source", "streams")},
        "bootstrap": record.identity["bootstrap"] or None,
        "recipe": {**found.identity["recipe"], **asked},
    }
    other = [name for name, value in expected.items() if found.identity.get(name) != value]
    if other:
        raise ValueError(
            f"{path} does not hold replica {r} of the ensemble in {record.path}: its {', '.join(other)} differs. Put "
            f"the folder of that replica back, or repeat the run with another workdir."
        )
    return found


@as_door()
def load_model(workdir: AnyPath, *, store: AnyPath | None = None) -> Fitted | Ensemble:
    """Load what a run folder holds: `load_run` or `load_ensemble`, whichever fits."""
    record = read_record(workdir, store=store)
    return _ensemble(record) if "num_replicas" in record.identity else _fitted(record)

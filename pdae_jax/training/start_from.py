"""A fit that goes on from the state of another run, with other values of the compiled step."""

import contextlib
import dataclasses
import pathlib
from typing import Any

from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.store import fingerprint
from pdae_jax.training.prepare import Parts, step_of
from pdae_jax.training.values import VALUES, neutral_of
from pdae_jax.types import PerturbationData

Path = str | pathlib.Path


def goes_on_from(workdir: Path | None, parent: Path | None) -> Path | None:
    """The folder whose run a fit goes on from: its own where that has a checkpoint, or there is no `parent`.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in `parent`.
        ValueError: `parent` is this run itself, or an ensemble.
    """
    if parent is None:
        return workdir
    path = pathlib.Path(parent)
    if workdir is not None and pathlib.Path(workdir).resolve() == path.resolve():
        raise ValueError(f"start_from={str(path)!r} is the workdir itself. Leave it out: the same run goes on anyway.")
    if workdir is not None and has_checkpoint(workdir):
        return workdir
    if (path / folder.CONFIG_FILE).exists() and "num_replicas" in folder.read_config(path)["identity"]:
        raise ValueError(f"start_from={str(path)!r} is an ensemble. Pass the folder of one of its replicas.")
    if not has_checkpoint(path):
        raise FileNotFoundError(
            f"start_from={str(path)!r} has no checkpoint of a run. Pass the workdir of a fit that has saved one."
        )
    return path


def has_checkpoint(path: Path) -> bool:
    """Whether there is a run in a folder that has something to go on from."""
    saved = pathlib.Path(path) / folder.CHECKPOINT_FOLDER
    # named by its step once it is complete
    return saved.exists() and any(each.name.isdigit() for each in saved.iterdir())


def started(
    parts: Parts,
    source: dict[str, str],
    train: PerturbationData,
    validation: PerturbationData | None,
    workdir: Path | None,
    parent: Path,
) -> tuple[Parts, dict[str, Any]]:
    """The parts with the state of the run `parent`; and for the identity the hash of its config and the step.

    The values of the step are those of `parts`, and so is the key that batches are drawn with. A run in `workdir`
    that has a checkpoint goes on from that, and `parent` may be gone. ``ValueError``: it has other data or structure.
    """
    path = pathlib.Path(parent)
    if goes_on_from(workdir, path) != path:
        assert workdir is not None
        start = folder.read_config(pathlib.Path(workdir))["identity"].get("start", {})
        there = (path / folder.CONFIG_FILE).exists()
        return parts, {**start, "hash": folder.read_config(path)["hash"]} if there else start
    record = folder.read_config(path)
    _check_same(path, record["identity"], parts.frame.recipe, source, train, validation)
    checkpoints = folder.Checkpoints(path / folder.CHECKPOINT_FOLDER, run=record["hash"], read_only=True)
    with contextlib.closing(checkpoints):
        state = checkpoints.restore(parts.state)
    new = parts.state.train
    state = state._replace(train=state.train._replace(key=new.key, settings=new.settings))
    return parts._replace(state=state), {"hash": record["hash"], "step": step_of(state)}


def _check_same(
    path: pathlib.Path,
    identity: dict[str, Any],
    recipe: Recipe,
    source: dict[str, str],
    train: PerturbationData,
    validation: PerturbationData | None,
) -> None:
    """``ValueError`` that names what a fit cannot take over."""
    data = {"train": fingerprint(train), "validation": fingerprint(validation)}
    changed = [f"the {name} data are others" for name, value in data.items() if identity["data"][name] != value]
    if identity["source"] != source:
        changed.append(f"source is {identity['source']} there, {source} here")
    other = Recipe.from_dict(identity["recipe"])
    there, here = neutral_of(other), neutral_of(recipe)
    changed += [
        f"{name} is {getattr(other, name)!r} there, {getattr(recipe, name)!r} here"
        for name in (field.name for field in dataclasses.fields(Recipe))
        if getattr(there, name) != getattr(here, name)
    ]
    if changed:
        raise ValueError(
            f"start_from={str(path)!r} cannot be gone on from: {'; '.join(changed)}. Pass the data and the recipe of "
            f"that run; only {', '.join(VALUES)}, patience, beta and bandwidths may be others, and no weight of the "
            f"loss from or to 0."
        )

"""Points of a sweep: what they change, where they are trained, what came of them."""

import contextlib
import copy
import hashlib
import json
import pathlib
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from pdae_jax.cli.reading import read_data
from pdae_jax.model.fitted import Fitted
from pdae_jax.runs.files import read_json, write_text
from pdae_jax.runs.folder import METRICS_FILE, FolderInUse, Lock
from pdae_jax.runs.track import read_metrics
from pdae_jax.settings import plain_number
from pdae_jax.training.fit import fit
from pdae_jax.training.population import share_of_control

RESULT_FILE = "sweep_point.json"  # in the folder of a point that ended
_WAIT = 5.0  # seconds between two looks at a folder that another process works in
_MOST_LETTERS = 200  # of the name of a folder; file systems have 255


class Point(NamedTuple):
    """One point, and all that a process needs to train it."""

    settings: dict[str, Any]  # of the config, ``{"fit.latent_dim": 4}``
    folder: pathlib.Path
    command: str  # trains and evaluates it alone
    digest: str = ""  # of its whole config: what a result in its folder must be of
    trial: int | None = None  # of the search, which may stop it early


class Result(NamedTuple):
    """The outcome of a point."""

    score: float
    seconds: float  # where it went on from earlier calls with those of their steps
    steps: int
    state: str  # finished, failed or stopped (early, by the search)
    error: str = ""


def grid_of(module: Any, path: pathlib.Path | str) -> list[dict[str, Any]]:
    """List the points of ``get_sweep()`` of a config file."""
    if not hasattr(module, "get_sweep"):
        raise ValueError(f"{path} has no get_sweep(). Add one that yields flat dicts, {{'fit.latent_dim': 4}}.")
    points = [{name: plain_number(value) for name, value in point.items()} for point in module.get_sweep()]
    if not points:
        raise ValueError(f"get_sweep() of {path} yields no points.")
    check_names(name for point in points for name in point)
    for number, point in enumerate(points):
        if point in points[:number]:
            raise ValueError(f"get_sweep() of {path} yields {point} twice. Yield each point once.")
    return points


def check_names(names: Iterable[str]) -> None:
    """Refuse what cannot be varied, ``ValueError``."""
    if "replicas" in set(names):
        raise ValueError(
            "'replicas' cannot be varied: a point is one fit. Vary 'seed', or give replicas in the config."
        )


def configure(config: Any, settings: dict[str, Any]) -> Any:
    """Make the config of a point; the one given stays as it is."""
    config = copy.deepcopy(config)  # ConfigDict(config) would share the nested sections
    config.update_from_flattened_dict(settings)
    return config


def settings_in(config: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Read values of a saved config by their flat names."""
    found = {}
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = value[part]
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def digest_of(config: Any) -> str:
    """Compute SHA-256 of all values of a config."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()


def command_of(door: Sequence[str], source: str, values: dict[str, Any], workdir: pathlib.Path) -> str:
    """Write the command that trains and evaluates a point alone, in its folder."""
    changes = [f"--config.{name}={value}" for name, value in values.items()]  # None is open, whatever the config has
    return shlex.join([*door, f"--config={source}", *changes, f"--workdir={workdir}"])


def folder_name(settings: dict[str, Any]) -> str:
    """Name a folder after settings: ``fit.latent_dim=4,seed=1``."""
    name = ",".join(f"{name}={value}" for name, value in settings.items()).replace("/", "_").replace(" ", "")
    if len(name) <= _MOST_LETTERS:
        return name
    return f"{name[:_MOST_LETTERS]},{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def earlier_result(point: Point) -> Result | None:
    """Read what came of a point in an earlier call; ``ValueError`` where its folder has one of other settings."""
    file = point.folder / RESULT_FILE
    if not file.exists():
        return None
    record = read_json(file)
    if record.pop("digest") != point.digest:
        raise ValueError(
            f"The folder {str(point.folder)!r} holds a point of another config, of other flags or of another search. "
            f"Nothing was changed; pass another workdir, or the settings of that sweep to go on with it."
        )
    return Result(**record)


def save_result(point: Point, result: Result) -> Result:
    """Keep what came of a point in its folder."""
    point.folder.mkdir(parents=True, exist_ok=True)
    write_text(point.folder / RESULT_FILE, json.dumps({**result._asdict(), "digest": point.digest}) + "\n")
    return result


def score_of(fitted: Fitted) -> float:
    """Compute `sweeps.SCORE` of a fit; ``ValueError`` without validation conditions that differ from the control."""
    if not fitted.validation_errors:
        raise ValueError("The config has no validation conditions to rank points by; name some in config.split.")
    score = share_of_control(fitted.validation_errors)
    if not np.isfinite(score):
        raise ValueError("The validation conditions do not differ from the control; name others in config.split.")
    return score


class StoppedEarly(Exception):
    """The search has seen enough of a point."""


class StoppableProgress:
    """The progress of a fit, which asks after each evaluation whether to go on."""

    def __init__(self, folder: pathlib.Path, report: Callable[[float, int], bool]):
        self._file, self._report, self._seen = folder / METRICS_FILE, report, 0

    def update(self, step: int, num_steps: int, loss: float) -> None:
        if not self._file.exists() or step <= self._seen:
            return
        with self._file.open("rb") as file:  # of the last lines only
            file.seek(max(0, self._file.stat().st_size - 4096))
            entry = json.loads(file.read().splitlines()[-1])
        if "validation_energy_distance" in entry:
            self._seen = step
            if self._report(entry["validation_energy_distance"], step):
                raise StoppedEarly(f"stopped after {step} of {num_steps} steps")

    def close(self) -> None:
        pass


def await_others(point: Point) -> Result | None:
    """Wait while another process trains a point, and return its result if it ended well."""
    waits = False
    while point.folder.exists():
        try:
            Lock(point.folder).release()
            break
        except FolderInUse:
            if not waits:
                logging.warning("Another process trains the point in %s. This one waits for it to end.", point.folder)
            waits = True
            time.sleep(_WAIT)
    found = earlier_result(point)
    return None if found is not None and found.state == "failed" else found


def earlier_seconds(folder: pathlib.Path) -> float:
    """Add up the seconds of the steps that earlier calls have taken in a folder."""
    seconds, before = 0.0, 0
    for entry in read_metrics(folder / METRICS_FILE):
        seconds += (entry["step"] - before) / entry["steps_per_second"]
        before = entry["step"]
    return seconds


def train_point(
    config: Any,
    point: Point,
    source: str,
    report: Callable[[float, int], bool] | None = None,
    start_from: pathlib.Path | None = None,
) -> Result:
    """Train a point, or go on with it; what goes wrong is its result, so that the others go on.

    Where another process trains it already, which outlived a sweep that was killed, this one waits for it.

    Args:
        config: that the point changes.
        point: where it is trained.
        source: ``path[:arg]`` of the config, for the record.
        report: told of (error on validation conditions, step); whether to stop.
        start_from: folder of a run whose state it goes on from.
    """
    while (found := await_others(point)) is None:
        with contextlib.suppress(FolderInUse):  # it began in between
            return save_result(point, _trained(config, point, source, report, start_from))
    return found


def _trained(
    config: Any,
    point: Point,
    source: str,
    report: Callable[[float, int], bool] | None,
    start_from: pathlib.Path | None,
) -> Result:
    start = time.perf_counter()
    try:
        start -= earlier_seconds(point.folder)
        own = configure(config, point.settings)
        experiment = read_data(own)
        fitted = fit(
            experiment.train,
            key=experiment.key,
            validation=experiment.validation,
            source=experiment.source,
            recipe=experiment.recipe,
            workdir=point.folder,
            start_from=start_from,
            progress=True if report is None else StoppableProgress(point.folder, report),
            config={"file": source, "command": point.command, **own.to_dict()},
        )
        steps = fitted.history[-1]["step"] if fitted.history else 0
        return Result(score_of(fitted), time.perf_counter() - start, steps, "finished")
    except FolderInUse:
        raise
    except StoppedEarly as error:
        return Result(float("nan"), time.perf_counter() - start, 0, "stopped", str(error))
    except Exception as error:  # whatever is wrong with this point
        return Result(float("nan"), time.perf_counter() - start, 0, "failed", f"{type(error).__name__}: {error}")

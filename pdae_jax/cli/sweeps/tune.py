"""Ray Tune decides while points train: poor ones are stopped (ASHA), or go on from the state of good ones (PBT).

ASHA: Li et al., MLSys 2020. PBT: Jaderberg et al., arXiv 1711.09846.

Tune's own files are in ``ray`` of the sweep's folder. Nothing there is needed: a sweep goes on from its run folders.
"""

import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from pdae_jax.cli.sweeps import searches
from pdae_jax.cli.sweeps.launchers import result_of, start_ray
from pdae_jax.cli.sweeps.points import (
    RESULT_FILE,
    Point,
    Result,
    configure,
    digest_of,
    earlier_result,
    save_result,
    settings_in,
    train_point,
)
from pdae_jax.compiled import cache_compilations
from pdae_jax.runs.files import read_json, write_text
from pdae_jax.runs.folder import CONFIG_FILE, METRICS_FILE
from pdae_jax.runs.track import read_metrics
from pdae_jax.training.resume import has_checkpoint

Ended = Callable[[Point, Result], None]
FOLDER = "ray"
GENERATION = searches.FIRST_RUNG  # evaluations between two looks at a member of a population
_MOST = 4**10  # evaluations of a point, for the rungs of ASHA
_START_FILE = "start.json"  # all that a checkpoint of Tune holds: the folder of a run


def asha(
    points: Sequence[Point],
    earlier: Sequence[Point],
    config: Any,
    source: str,
    workdir: pathlib.Path,
    at_once: int | None,
    ended: Ended,
) -> None:
    """Train points side by side; after 4, 16, 64 ... evaluations those outside the best quarter are stopped.

    Args:
        points: to be trained, or to go on with.
        earlier: that ended in an earlier call, and count for the quarter.
        config: that the points change.
        source: ``path[:arg]`` of the config, for the record.
        workdir: of the sweep.
        at_once: most points that train together; None: as many as there are cores, or GPUs.
        ended: told of each point.
    """
    from ray import tune  # pyright: ignore[reportMissingImports]
    from ray.tune.schedulers import ASHAScheduler  # pyright: ignore[reportMissingImports]

    here, points = os.getcwd(), [point._replace(folder=point.folder.resolve()) for point in points]

    def train(given: dict[str, Any]) -> None:
        os.chdir(here)  # Tune gives each trial a folder of its own; paths of a config are from here
        cache_compilations()
        point = points[given["number"]]
        every = _every(config, point)

        def report(error: float, step: int) -> bool:
            if not is_last(point.folder, step):
                tune.report({"error": error, "evaluations": step // every})  # does not return where it is stopped
            return False

        train_point(config, point, source, report)

    def trial_ended(trial: Any, error: str) -> None:
        point = points[trial.config["number"]]
        if not error and earlier_result(point) is None:
            note = f"stopped after {trial.last_result['evaluations']} evaluations"
            save_result(point, Result(float("nan"), trial.last_result["time_total_s"], 0, "stopped", note))
        ended(point, result_of(point, error))

    scheduler: Any = ASHAScheduler(
        "evaluations", "error", "min", grace_period=searches.FIRST_RUNG, reduction_factor=4, max_t=_MOST
    )
    for point in earlier:
        trial = SimpleNamespace(trial_id=point.folder.name)
        scheduler.on_trial_add(None, trial)
        for evaluations, error in errors_of(point.folder, _every(config, point)):
            scheduler.on_trial_result(None, trial, {"evaluations": evaluations, "error": error})
    _run(train, {"number": tune.grid_search(list(range(len(points))))}, scheduler, workdir, at_once, trial_ended)


def _every(config: Any, point: Point) -> int:
    """Look up the steps between evaluations of a point."""
    return point.settings.get("fit.eval_every", config.fit.eval_every)


def is_last(folder: pathlib.Path, step: int) -> bool:
    """Tell whether a run ends with this step: Tune is not asked then, so that what is done stays."""
    recipe = read_json(folder / CONFIG_FILE)["identity"]["recipe"]
    return step >= (recipe["num_steps"] if recipe["stop_step"] is None else recipe["stop_step"])


def errors_of(folder: pathlib.Path, every: int) -> list[tuple[int, float]]:
    """Read from a run folder, for each evaluation, how many there were and the error on validation conditions."""
    name = "validation_energy_distance"
    return [(each["step"] // every, each[name]) for each in read_metrics(folder / METRICS_FILE) if name in each]


class PopulationSearch(searches.Listed):
    """Members that train side by side, each with settings of its own; poor ones go on from the state of good ones.

    Whenever a member goes on from another it begins a new run folder: ``003-00``, ``003-01`` ... of member 3.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        space: Mapping[str, Any],
        number: int,
        seed: int,
        config: Any,
        source: str,
        command: str,
    ):
        """Find the run that each member goes on with: its last that has a checkpoint, or its first.

        Args:
            workdir: of the sweep.
            space: of the settings, all of which are values of the compiled step (`searches.check_values`).
            number: of members.
            seed: of the settings that they begin with.
            config: that the settings change; its checkpoints are written as often as members are looked at.
            source: ``path[:arg]`` of the config, for the record.
            command: of the sweep: none alone repeats a member.
        """
        searches.check_values(space)
        drawn = searches.random_settings(space, number, seed)
        self.config = configure(config, {"fit.checkpoint_every": GENERATION * config.fit.eval_every})
        self._source, self._workdir, self._command, self._space = source, workdir.resolve(), command, space
        super().__init__([self._last(number, settings) for number, settings in enumerate(drawn)])

    def _last(self, number: int, settings: dict[str, Any]) -> Point:
        first = self._workdir / f"{number:03d}-00"
        point = self.point(next((run for run in reversed(runs_of(first)) if has_checkpoint(run)), first), settings)
        found = earlier_result(point)
        if found is not None and found.state == "stopped":  # what went on from another one has nothing to go on from
            (point.folder / RESULT_FILE).unlink()
        return point

    def point(self, folder: pathlib.Path, settings: dict[str, Any]) -> Point:
        """Return the run in a folder, with the settings that it has, or else these."""
        if (folder / CONFIG_FILE).exists():
            settings = settings_in(read_json(folder / CONFIG_FILE)["config"], self._space)
        return Point(settings, folder, self._command, digest_of(configure(self.config, settings)))

    def next_run(self, own: pathlib.Path, start: pathlib.Path | None) -> tuple[pathlib.Path, pathlib.Path | None]:
        """Return the folder of the run that a member goes on with, and the one whose state it has begun with.

        Args:
            own: folder of a run of the member.
            start: folder of the run to go on from, perhaps of another member; None: `own`.
        """
        runs = runs_of(own)
        if start is None or start in runs:
            folder = start or own
            known = read_json(folder / CONFIG_FILE)["config"] if (folder / CONFIG_FILE).exists() else {}
            return folder, pathlib.Path(known["start_from"]) if "start_from" in known else None
        member, number = runs[-1].name.split("-")
        result = Result(float("nan"), 0.0, 0, "stopped", f"the member went on from {start.name}")
        save_result(self.point(runs[-1], {}), result)
        return self._workdir / f"{member}-{int(number) + 1:02d}", start

    def train(self, waiting: Sequence[Point], ended: Ended) -> None:
        """Train members, or go on with them; `ended` is told of the last run of each."""
        from ray import tune  # pyright: ignore[reportMissingImports]
        from ray.tune.schedulers import PopulationBasedTraining  # pyright: ignore[reportMissingImports]

        here, every = os.getcwd(), self.config.fit.eval_every

        def train(given: dict[str, Any]) -> None:
            os.chdir(here)
            cache_compilations()
            own = waiting[_number(tune.get_context().get_trial_id())].folder
            folder, parent = self.next_run(own, _named_by(tune.get_checkpoint()))
            point = self.point(folder, given["settings"])

            def report(error: float, step: int) -> bool:
                if step % (GENERATION * every) == 0 and not is_last(folder, step):
                    with tempfile.TemporaryDirectory() as start:
                        write_text(pathlib.Path(start) / _START_FILE, json.dumps({"folder": str(folder)}))
                        checkpoint = tune.Checkpoint.from_directory(start)
                        tune.report({"error": error, "step": step}, checkpoint=checkpoint)
                return False

            train_point(self.config, point, self._source, report, parent)

        def trial_ended(trial: Any, error: str) -> None:
            own = waiting[_number(trial.trial_id)].folder
            point = self.point((runs_of(own) or [own])[-1], trial.config["settings"])
            ended(point, result_of(point, error))

        kinds = {"log": tune.loguniform, "uniform": tune.uniform, "int": lambda low, high: tune.randint(low, high + 1)}
        scheduler = PopulationBasedTraining(
            "step",
            metric="error",
            mode="min",
            perturbation_interval=GENERATION * every,
            hyperparam_mutations={
                "settings": {n: v if isinstance(v, list) else kinds[v[0]](*v[1:]) for n, v in self._space.items()}
            },
            custom_explore_fn=lambda given: {"settings": inside(given["settings"], self._space)},
            log_config=False,
        )
        starts = {"settings": tune.grid_search([point.settings for point in waiting])}
        _run(train, starts, scheduler, self._workdir, None, trial_ended)


def runs_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """List the runs of the member that the run in a folder is of, in order."""
    member = folder.name.split("-")[0]
    return sorted(folder.parent.glob(f"{member}-*"), key=lambda run: int(run.name.split("-")[1]))


def inside(settings: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """Cut settings that were multiplied to their ranges."""
    found = dict(settings)
    for name, values in space.items():
        if isinstance(values, tuple):
            kind, low, high = values
            found[name] = (int if kind == "int" else float)(min(max(found[name], low), high))
    return found


def _named_by(checkpoint: Any) -> pathlib.Path | None:
    """Read the folder of the run that a checkpoint of Tune names."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as start:
        return pathlib.Path(read_json(pathlib.Path(start) / _START_FILE)["folder"])


def _number(trial_id: str) -> int:
    """Read the place of a trial in its sweep: its config may become that of another."""
    return int(trial_id.rsplit("_", 1)[1])


def check_own(workdir: pathlib.Path) -> None:
    """Refuse a folder in the place of Tune's files that Tune has not written, ``FileExistsError``."""
    own = workdir / FOLDER
    if own.exists() and any(own.iterdir()) and not any(own.glob("experiment_state-*")):
        raise FileExistsError(
            f"{own} was not written by a sweep, and would be removed. Move it, or pass another workdir."
        )


def _run(
    train: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    scheduler: Any,
    workdir: pathlib.Path,
    at_once: int | None,
    ended: Callable[[Any, str], None],
) -> None:
    """Run trials; `ended` is told of each, and of its error."""
    _, gpus = start_ray()
    from ray import tune  # pyright: ignore[reportMissingImports]

    class TrialEnds(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            ended(trial, "")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            ended(trial, pathlib.Path(trial.error_file).read_text())

    # a sweep has its own tables, and one that is interrupted must not end as if it were finished
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0"}
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it looks for its tables
    check_own(workdir)
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1, "gpu": gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(name=FOLDER, storage_path=str(workdir.resolve()), verbose=0, callbacks=[TrialEnds()]),
    ).fit()

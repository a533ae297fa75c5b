"""Which points to try: those of a grid, random ones of a space, or those that optuna proposes.

A space is what ``get_space()`` of a config gives, name -> values:

    {"fit.latent_dim": [2, 4, 8], "fit.learning_rate": ("log", 1e-4, 1e-2), "fit.contrast": ("uniform", 0.0, 2.0),
     "fit.cells_per_source": ("int", 8, 64)}
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pdae_jax.cli.sweeps.points import Point, Result, check_names
from pdae_jax.recipe import LossWeights
from pdae_jax.training.step import VALUES

STUDY_FILE = "optuna.journal"
OBJECTIVES = ("error", "seconds")
FIRST_RUNG = 4  # evaluations before a point can be stopped; then at 16, 64 ...


@runtime_checkable
class Search(Protocol):
    """Asked for points, and told what came of them."""

    def ask(self, number: int) -> list[Point]: ...

    def tell(self, point: Point, result: Result) -> None: ...

    def earlier(self) -> list[Point]:
        """List points that ended in an earlier call, and are not asked for again."""
        ...

    @property
    def total(self) -> int: ...


class Listed:
    """All points of a list, in order."""

    def __init__(self, points: Sequence[Point]):
        self._waiting, self.total = list(points), len(points)

    def ask(self, number: int) -> list[Point]:
        asked, self._waiting = self._waiting[:number], self._waiting[number:]
        return asked

    def tell(self, point: Point, result: Result) -> None:
        pass

    def earlier(self) -> list[Point]:
        return []


def check_space(space: Mapping[str, Any]) -> None:
    """Refuse what is not understood, ``ValueError`` that names it."""
    check_names(space)
    for name, values in space.items():
        if isinstance(values, list) and values:
            continue
        known = isinstance(values, tuple) and len(values) == 3 and values[0] in ("log", "uniform", "int")
        if not known or not values[1] < values[2] or (values[0] == "log" and values[1] <= 0):
            raise ValueError(
                f"get_space() has {name!r}: {values!r}. Pass a list of values, or ('log', low, high), ('uniform', low, "
                f"high) or ('int', low, high), low below high and for 'log' above 0."
            )


def check_values(space: Mapping[str, Any]) -> None:
    """Refuse a setting that cannot change while a fit trains, ``ValueError`` that names it."""
    free = sorted(f"fit.{name}" for name in VALUES if name != "num_steps")
    for name, values in space.items():
        if name not in free:
            raise ValueError(
                f"get_space() has {name!r}, which cannot change while a fit trains. Give it in the config, and to the "
                f"population some of {', '.join(free)}."
            )
        if isinstance(values, list) and 0 in values and name.removeprefix("fit.") in LossWeights._fields:
            raise ValueError(
                f"get_space() has {name!r}: {values!r}, but a term is in the loss or not as long as a fit trains. Give "
                f"0 in the config, or leave it out of the list."
            )


def random_settings(space: Mapping[str, Any], number: int, seed: int) -> list[dict[str, Any]]:
    """Draw points of a space, each value by itself."""
    check_space(space)
    random = np.random.default_rng(seed)

    def draw(values: Any) -> Any:
        if isinstance(values, list):
            return values[random.integers(len(values))]
        kind, low, high = values
        if kind == "int":
            return int(random.integers(low, high + 1))
        if kind == "log":
            return float(np.exp(random.uniform(np.log(low), np.log(high))))
        return float(random.uniform(low, high))

    return [{name: draw(values) for name, values in space.items()} for _ in range(number)]


class Optuna:
    """Points that a study of optuna proposes (TPE); the study is a file in the folder of the sweep."""

    def __init__(
        self,
        folder: pathlib.Path,
        space: Mapping[str, Any],
        number: int,
        seed: int,
        objectives: Sequence[str],
        point_of: Callable[[dict[str, Any], int], Point],
    ):
        import optuna

        check_space(space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.total, self._objectives, self._point_of = number, tuple(objectives), point_of
        self._space = space
        self._distributions = {name: _distribution(values) for name, values in space.items()}
        self.study = open_study(folder, seed, len(objectives))
        # of a process that was killed: they go on in their folders
        running = self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        self._broken_off = [self._proposed(trial) for trial in running]

    def ask(self, number: int) -> list[Point]:
        found, self._broken_off = self._broken_off[:number], self._broken_off[number:]
        asked = len(self.study.get_trials(deepcopy=False))
        for _ in range(min(number - len(found), self.total - asked)):
            trial = self.study.ask(self._distributions)
            found.append(self._proposed(trial))
        return found

    def earlier(self) -> list[Point]:
        import optuna

        states = optuna.trial.TrialState
        ended = (states.COMPLETE, states.PRUNED, states.FAIL)
        return [self._proposed(trial) for trial in self.study.get_trials(states=ended)]

    def _proposed(self, trial: Any) -> Point:
        """Make the point of a trial."""
        settings = {}
        for name, value in trial.params.items():
            values = self._space.get(name)
            if isinstance(values, list):
                known = {repr(each): each for each in values}
                if value not in known:
                    raise ValueError(
                        f"The study has tried {name!r} with {value}, which get_space() does not list any more. Put it "
                        f"back, or pass another workdir."
                    )
                value = known[value]
            settings[name] = value
        return self._point_of(settings, trial.number)

    def tell(self, point: Point, result: Result) -> None:
        import optuna

        assert point.trial is not None
        states = optuna.trial.TrialState
        if result.state == "finished":
            values = {"error": result.score, "seconds": result.seconds}
            self.study.tell(point.trial, [values[name] for name in self._objectives])
        else:
            self.study.tell(point.trial, state=states.PRUNED if result.state == "stopped" else states.FAIL)


def open_study(folder: pathlib.Path, seed: int, num_objectives: int) -> Any:
    """Open the study of a sweep; of one objective it stops points early by asynchronous successive halving."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY_FILE)))
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        load_if_exists=True,
        directions=[optuna.study.StudyDirection.MINIMIZE] * num_objectives,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG),
    )
    if len(study.directions) != num_objectives:
        raise ValueError(
            f"The study in {str(folder)!r} has {len(study.directions)} objectives, not {num_objectives}. Pass the "
            f"objectives it was begun with, or another workdir."
        )
    # another seed when it goes on, or the sampler would propose what it has proposed
    # points that are asked for together are kept apart by taking those that run for poor ones
    seed += len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return study


def reporter(folder: pathlib.Path, trial: int, evaluations: Callable[[int], int]) -> Callable[[float, int], bool]:
    """Return a function that tells the study of errors on validation conditions, and whether to stop."""
    import optuna

    study = open_study(folder, 0, 1)
    of_study = next(each for each in study.get_trials(deepcopy=False) if each.number == trial)
    running = optuna.trial.Trial(study, of_study._trial_id)

    def report(error: float, step: int) -> bool:
        running.report(error, evaluations(step))
        return running.should_prune()

    return report


def _distribution(values: Any) -> Any:
    from optuna import distributions

    if isinstance(values, list):
        return distributions.CategoricalDistribution([repr(value) for value in values])  # of any kind, widths too
    kind, low, high = values
    if kind == "int":
        return distributions.IntDistribution(low, high)
    return distributions.FloatDistribution(low, high, log=kind == "log")

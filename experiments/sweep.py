"""Train every point of a sweep, and rank the points on the validation conditions. Test conditions choose nothing.

python experiments/sweep.py --config=experiments/configs/simulated.py --workdir=runs/simulated-sweep
python experiments/sweep.py --config=experiments/configs/simulated.py --launcher=population
python experiments/sweep.py --config=experiments/configs/simulated.py --search=optuna --points=64
python experiments/sweep.py --config=experiments/configs/simulated.py --launcher=ray --search=asha --points=64
python experiments/sweep.py --config=experiments/configs/simulated.py --launcher=slurm --slurm_partition=gpu --dry_run

The points are what get_sweep() beside get_config() gives, flat dicts such as {"fit.latent_dim": 4, "seed": 1}; or, with
any other --search than grid, --points of the space that get_space() gives: {"fit.learning_rate": ("log", 1e-4, 1e-2)}.
Each has a run folder of its own under --workdir. The same command again goes on where it was broken off. A point that
fails is recorded with its error. The best settings are then trained once more, from another start (as an ensemble of
config.replicas, where these are more than one), and evaluated on the test conditions, once: <workdir>/winner. Watch a
sweep from another terminal with experiments/watch.py.

Launchers: inline, one point after the other; population, together in one program, the fastest on one machine; ray, a
task for each point, on this machine or the cluster of RAY_ADDRESS; slurm, an array of jobs (--slurm_cluster=local runs
them here). --search=optuna with one objective stops poor points early, by asynchronous successive halving, wherever
they run; but not in a population.

With --launcher=ray there are two searches by Ray Tune. --search=asha takes random points and stops poor ones early too,
by asynchronous successive halving. --search=pbt is population-based training: --points members train side by side, and
poor ones go on from the state of good ones with other rates and weights. Its winner is evaluated as it is, since no
settings repeat it.
"""

import contextlib
import functools
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.sweeps import launchers, report, searches, tune
from experiments.sweeps.points import (
    RESULT_FILE,
    Point,
    Result,
    command_of,
    configure,
    digest_of,
    earlier_result,
    folder_name,
    grid_of,
    load_config,
    settings_in,
    train_point,
)
from pdae_jax import build, fit, fit_ensemble
from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results, sweeps
from pdae_jax.reporting.sweeps import SCORE
from pdae_jax.runs.folder import Lock

CONFIG = config_flags.DEFINE_config_file("config", None, "what to vary: path[:arg]")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep; default runs/<name of the config>-sweep")
LAUNCHER = flags.DEFINE_enum("launcher", "inline", ["inline", "population", "ray", "slurm"], "where points are trained")
SEARCH = flags.DEFINE_enum(
    "search", "grid", ["grid", "random", "optuna", "asha", "pbt"], "which points are tried; asha and pbt: by Ray Tune"
)
POINTS = flags.DEFINE_integer("points", 32, "number of points, of any search but a grid", lower_bound=1)
AT_ONCE = flags.DEFINE_integer(
    "at_once",
    None,
    "points asked for together; default 1 inline, 32 of a population or of optuna, else all; of asha as many as cores",
    lower_bound=1,
)
OBJECTIVES = flags.DEFINE_list("objectives", ["error"], "of optuna: error, seconds, or both")
SEED = flags.DEFINE_integer("search_seed", 0, "of any search but a grid")
WINNER = flags.DEFINE_bool("winner", True, "train the best settings once more and evaluate them on the test conditions")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "of slurm: write the scripts, submit nothing")
PARTITION = flags.DEFINE_string("slurm_partition", None, "partition of Slurm jobs")
MINUTES = flags.DEFINE_integer("slurm_minutes", 60, "time of a Slurm job", lower_bound=1)
CPUS = flags.DEFINE_integer("slurm_cpus", 4, "cores of a Slurm job", lower_bound=1)
GPUS = flags.DEFINE_integer("slurm_gpus", 1, "GPUs of a Slurm job", lower_bound=0)
CLUSTER = flags.DEFINE_enum("slurm_cluster", "slurm", ["slurm", "local"], "where Slurm jobs run; local: here")
POINT = flags.DEFINE_string("point", None, "of a launcher: train this point only, JSON")
flags.mark_flag_as_required("config")

WINNER_FOLDER = "winner"
# whether of a population -> what the report says of the rows and of the winner
_NOTES = {
    False: "The best settings are trained once more, from another start, and evaluated once.",
    True: "Each row is the last run of a member of the population, with the settings that it ended with. The winner is "
    "the best of these runs, evaluated once as it is: its settings changed while it trained, and no fit repeats that.",
}
_WINNER = 9  # folded into the key of the winner: it won with the start of its point


def main(_):
    logging.set_verbosity(logging.WARNING)
    if LAUNCHER.value == "population" and jax.config.values["jax_num_cpu_devices"] < 1:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # members train on all cores
    cache_compilations()
    source = config_flags.get_config_filename(flags.FLAGS["config"])  # path[:arg]
    path, _, arg = source.partition(":")
    path = pathlib.Path(path)
    workdir = pathlib.Path(WORKDIR.value or f"runs/{path.stem}{'-' if arg else ''}{arg}-sweep")
    if POINT.value:
        _train_alone(source, json.loads(POINT.value), workdir)
        return
    if DRY_RUN.value and (LAUNCHER.value != "slurm" or SEARCH.value == "optuna" or CLUSTER.value == "local"):
        raise ValueError("--dry_run writes the scripts of --launcher=slurm for a cluster, of a grid or random search.")
    if LAUNCHER.value == "population" and "seconds" in OBJECTIVES.value:
        raise ValueError("Members of a population have no time of their own. Pass --objectives=error.")
    _check_tune()
    if not _has_validation():
        raise ValueError("The config has no validation conditions to rank points by; name some in config.split.")
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:  # a second sweep there would train and judge the same points
        stack.callback(Lock(workdir).release)
        _sweep(path, source, workdir)


def _sweep(path: pathlib.Path, source: str, workdir: pathlib.Path) -> None:
    """Train and judge the points, and then the winner."""
    search = _search(path, source, workdir)
    rows = [_row(point, result) for point in search.earlier() if (result := earlier_result(point))]

    def ended(point: Point, result: Result) -> None:
        search.tell(point, result)
        rows.append(_row(point, result))
        report.write_table(workdir, rows)
        print(f"[{len(rows)}/{search.total}] {_words(point, result)}", flush=True)

    while points := search.ask(_together()):
        _run(points, search, source, workdir, ended)
    if not rows or DRY_RUN.value:
        return
    table = sweeps.read_sweep(workdir)
    print(f"\n{report.show(sweeps.leaderboard(table))}\n\n{SCORE}: energy distance on the validation conditions, as a ")
    print(f"fraction of the control's.\nEvery point, with its command: {workdir / report.TABLE_FILE}")
    report.write_report(workdir, table, _NOTES[isinstance(search, tune.Population)], "seconds" in OBJECTIVES.value)
    if WINNER.value and (table["state"] == "finished").any():
        if isinstance(search, tune.Population):
            _evaluate_best_run(search.config, table, workdir)
        else:
            _evaluate_winner(source, table, workdir)


def _check_tune() -> None:
    """What Ray Tune cannot do."""
    if SEARCH.value in ("asha", "pbt") and LAUNCHER.value != "ray":
        raise ValueError(f"--search={SEARCH.value} is by Ray Tune. Pass --launcher=ray with it.")
    if SEARCH.value == "pbt" and AT_ONCE.value:
        raise ValueError("All members of --search=pbt take turns on the cores there are. Leave out --at_once.")


def _together() -> int:
    """Points that are asked for at once: all of a list, and as many as a search can do without their results."""
    if AT_ONCE.value and SEARCH.value != "asha":
        return AT_ONCE.value
    if LAUNCHER.value == "inline":
        return 1
    return 32 if SEARCH.value == "optuna" or LAUNCHER.value == "population" else 10**6


def _row(point: Point, result: Result) -> dict[str, Any]:
    return {**point.settings, **result._asdict(), "folder": point.folder.name, "command": point.command}


def _config() -> Any:
    """What points change: each trains one fit, and the winner as many replicas as the config says."""
    return configure(CONFIG.value, {"replicas": 1})


def _has_validation() -> bool:
    split = CONFIG.value.split
    return bool(split.validation or split.get("validation_fraction") or split.get("protocol"))


def _point(source: str, workdir: pathlib.Path, settings: dict[str, Any], number: int, numbered: bool) -> Point:
    folder = workdir / (f"{number:03d}" if numbered else folder_name(settings))
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    overrides |= {"replicas": 1} if CONFIG.value.replicas > 1 else {}
    with contextlib.suppress(KeyError, TypeError, ValueError):  # of settings that the config does not have: said later
        digest = digest_of(configure(_config(), settings))
        return Point(settings, folder, command_of(source, {**overrides, **settings}, folder), digest)
    return Point(settings, folder, command_of(source, {**overrides, **settings}, folder))


def _search(path: pathlib.Path, source: str, workdir: pathlib.Path) -> searches.Search:
    module, point = load_config(path), functools.partial(_point, source, workdir)
    if SEARCH.value == "grid":
        return searches.Listed([point(each, number, False) for number, each in enumerate(grid_of(module, path))])
    if not hasattr(module, "get_space"):
        raise AttributeError(
            f"{path} has no get_space(). Add one that returns a dict, {{'fit.learning_rate': ('log', 1e-4, 1e-2)}}."
        )
    if SEARCH.value == "pbt":
        command = shlex.join(["python", *sys.argv])
        return tune.Population(workdir, module.get_space(), POINTS.value, SEED.value, _config(), source, command)
    if SEARCH.value in ("random", "asha"):
        drawn = searches.random_settings(module.get_space(), POINTS.value, SEED.value)
        return searches.Listed([point(each, number, True) for number, each in enumerate(drawn)])
    unknown = [name for name in OBJECTIVES.value if name not in searches.OBJECTIVES]
    if unknown:
        raise ValueError(f"objectives has {unknown[0]!r}; pass some of {', '.join(searches.OBJECTIVES)}.")

    def proposed(settings: dict[str, Any], number: int) -> Point:
        return point(settings, number, True)._replace(trial=number)

    return searches.Optuna(workdir, module.get_space(), POINTS.value, SEED.value, OBJECTIVES.value, proposed)


def _run(
    points: list[Point],
    search: searches.Search,
    source: str,
    workdir: pathlib.Path,
    ended: Callable[[Point, Result], None],
) -> None:
    """Train points, and tell of each; those that ended in an earlier call are read back."""
    waiting = []
    for point in points:
        found = earlier_result(point)
        if found is not None and found.state != "failed":
            ended(point, found)
            continue
        (point.folder / RESULT_FILE).unlink(missing_ok=True)  # what failed is tried again
        waiting.append(point)
    if waiting and isinstance(search, tune.Population):
        search.train(waiting, ended)
    elif waiting and SEARCH.value == "asha":
        earlier = [point for point in points if point not in waiting]
        tune.asha(waiting, earlier, _config(), source, workdir, AT_ONCE.value, ended)
    elif waiting:
        for point, result in _launched(waiting, source, workdir):
            ended(point, result)


def _launched(points: list[Point], source: str, workdir: pathlib.Path) -> Iterator[tuple[Point, Result]]:
    """Points as they end."""
    if LAUNCHER.value == "inline":
        yield from launchers.inline(points, _config(), source, _report_of(workdir))
    elif LAUNCHER.value == "population":
        yield from launchers.population(points, _config(), source)
    elif LAUNCHER.value == "ray":
        yield from launchers.ray(points, functools.partial(_alone, source, workdir))
    else:
        parameters = {"timeout_min": MINUTES.value}
        if CLUSTER.value == "slurm":
            parameters = {"slurm_time": MINUTES.value, "slurm_cpus_per_task": CPUS.value}
            parameters |= {"slurm_gpus_per_task": GPUS.value} if GPUS.value else {}
            parameters |= {"slurm_partition": PARTITION.value} if PARTITION.value else {}
        alone = functools.partial(_alone, source, workdir)
        yield from launchers.slurm(points, alone, workdir / "slurm", CLUSTER.value, DRY_RUN.value, **parameters)


def _report_of(workdir: pathlib.Path) -> Callable[[Point], Any]:
    """Who is told of a point's errors, and may stop it: the study of a search with one objective."""

    def report_of(point: Point) -> Any:
        if point.trial is None or len(OBJECTIVES.value) > 1:
            return None
        every = point.settings.get("fit.eval_every", CONFIG.value.fit.eval_every)
        return searches.reporter(workdir, point.trial, lambda step: step // every)

    return report_of


def _alone(source: str, workdir: pathlib.Path, point: Point) -> list[str]:
    """The command of a process that trains one point."""
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    asked = {**point._asdict(), "folder": str(point.folder.resolve())}
    return [
        *(sys.executable, str(pathlib.Path(__file__).resolve())),
        f"--config={_resolved(source)}",
        *(f"--config.{name}={value}" for name, value in overrides.items()),
        f"--workdir={workdir.resolve()}",
        f"--objectives={','.join(OBJECTIVES.value)}",
        f"--point={json.dumps(asked)}",
    ]


def _resolved(source: str) -> str:
    path, colon, arg = source.partition(":")
    return f"{pathlib.Path(path).resolve()}{colon}{arg}"


def _train_alone(source: str, asked: dict[str, Any], workdir: pathlib.Path) -> None:
    point = Point(**{**asked, "folder": pathlib.Path(asked["folder"])})
    train_point(_config(), point, source, _report_of(workdir)(point))


def _evaluate_winner(source: str, table: Any, workdir: pathlib.Path) -> None:
    """The best settings, over seeds where there are some, trained from another start and evaluated once."""
    names = [name for name in table if name not in sweeps.RESULTS]
    keys = [name for name in names if name != "seed"]
    done = table[table["state"] == "finished"]
    if keys:
        # settings that failed with a seed come after those that did not
        groups = done.groupby(keys, dropna=False)[SCORE]
        full = groups.transform("count") == groups.transform("count").max()
        best = groups.transform("mean")[full].idxmin()
    else:
        best = done[SCORE].idxmin()
    best_point, command = str(done.loc[best, "folder"]), shlex.join(["python", *sys.argv])
    settings = json.loads((workdir / best_point / "config.json").read_text())["config"]
    config = configure(CONFIG.value, settings_in(settings, names))
    folder = workdir / WINNER_FOLDER
    if (folder / "config.json").exists():  # of a sweep that had fewer points
        earlier = json.loads((folder / "config.json").read_text())["config"].get("point")
        folder = folder if earlier == best_point else workdir / f"{WINNER_FOLDER}-{best_point}"
    experiment, replicas = build.experiment(config), CONFIG.value.replicas
    train = functools.partial(fit_ensemble, num_replicas=replicas) if replicas > 1 else fit
    train(
        experiment.train,
        key=jax.random.fold_in(experiment.key, _WINNER),
        validation=experiment.validation,
        source=experiment.source,
        recipe=experiment.recipe,
        workdir=folder,
        progress=True,
        config={
            "file": source,
            "command": command,
            "point": best_point,
            **config.to_dict(),
            "evaluation": experiment.evaluation,
        },
    )
    results.save_test(folder, experiment.test)
    print(f"\nThe winner, {best_point}, from another start, on the test conditions ({folder}):")
    print(results.write_results(folder, command=command, **experiment.evaluation))


def _evaluate_best_run(config: Any, table: Any, workdir: pathlib.Path) -> None:
    """The best run of a population, evaluated as it is: its settings changed on the way, and no fit repeats it."""
    best = str(table.loc[table[table["state"] == "finished"][SCORE].idxmin(), "folder"])
    experiment, folder = build.experiment(config), workdir / best
    results.save_test(folder, experiment.test)
    print(f"\nThe winner, {best}, as it is, on the test conditions ({folder}):")
    print(results.write_results(folder, command=shlex.join(["python", *sys.argv]), **experiment.evaluation))


def _words(point: Point, result: Result) -> str:
    ending = f"{result.score:.4f}" if result.state == "finished" else f"{result.state}: {result.error}"
    return f"{folder_name(point.settings)}  {ending}  ({result.seconds:.1f} s)"


if __name__ == "__main__":
    app.run(main)

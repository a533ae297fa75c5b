"""Train every point of a sweep, and rank the points on the validation conditions. Test conditions choose nothing.

pdae-jax sweep --config=simulated --workdir=runs/simulated-sweep
pdae-jax sweep --config=simulated --launcher=population
pdae-jax sweep --config=simulated --search=optuna --points=64
pdae-jax sweep --config=simulated --launcher=ray --search=asha --points=64
pdae-jax sweep --config=simulated --launcher=slurm --slurm_partition=gpu --dry_run

The points are what get_sweep() beside get_config() gives, flat dicts such as {"fit.latent_dim": 4, "seed": 1}; or, with
any other --search than grid, --points of the space that get_space() gives: {"fit.learning_rate": ("log", 1e-4, 1e-2)}.
Each has a run folder of its own under --workdir. The same command again goes on where it was broken off. A point that
fails is recorded with its error. The best settings are then trained once more, from another start (as an ensemble of
config.replicas, where these are more than one), and evaluated on the test conditions, once: <workdir>/winner. Watch a
sweep from another terminal with ``experiments/watch.py``.

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
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from pdae_jax.cli.command import Call
from pdae_jax.cli.configs import load_config
from pdae_jax.cli.reading import read_data
from pdae_jax.cli.run import default_workdir
from pdae_jax.cli.sweeps import launchers, report, searches, tune
from pdae_jax.cli.sweeps.options import Sweep, check, define
from pdae_jax.cli.sweeps.points import (
    RESULT_FILE,
    Point,
    Result,
    command_of,
    configure,
    digest_of,
    earlier_result,
    folder_name,
    grid_of,
    settings_in,
    train_point,
)
from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results, sweeps
from pdae_jax.reporting.sweeps import SCORE
from pdae_jax.runs.folder import Lock
from pdae_jax.training.ensemble import fit_ensemble
from pdae_jax.training.fit import fit

__all__ = ["CONFIG", "define", "main"]

CONFIG = "anndata"  # where the command line has none: a file of one's own
WINNER_FOLDER = "winner"
# whether of a population -> what the report says of the rows and of the winner
_NOTES = {
    False: "The best settings are trained once more, from another start, and evaluated once.",
    True: "Each row is the last run of a member of the population, with the settings that it ended with. The winner is "
    "the best of these runs, evaluated once as it is: its settings changed while it trained, and no fit repeats that.",
}
_WINNER = 9  # folded into the key of the winner: it won with the start of its point


def main(asked: flags.FlagValues, call: Call) -> None:
    """Train and judge the points, and then the winner."""
    if asked.launcher == "population" and jax.config.values["jax_num_cpu_devices"] < 1:
        with contextlib.suppress(RuntimeError):  # JAX has started, and has the devices that it has
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # members train on all cores
    cache_compilations()
    workdir = pathlib.Path(asked.workdir or f"{default_workdir(call.source)}-sweep")
    sweep = Sweep(asked, call, workdir)
    if asked.point:
        _train_alone(sweep, json.loads(asked.point))
        return
    check(sweep)
    workdir.mkdir(parents=True, exist_ok=True)
    report.check_own(workdir)
    with contextlib.ExitStack() as stack:  # a second sweep there would train and judge the same points
        stack.callback(Lock(workdir).release)
        _sweep(sweep)


def _sweep(sweep: Sweep) -> None:
    """Do so in a folder that no other sweep works in."""
    search, workdir = _search(sweep), sweep.workdir
    rows = [_row(point, result) for point in search.earlier() if (result := earlier_result(point))]

    def ended(point: Point, result: Result) -> None:
        search.tell(point, result)
        rows.append(_row(point, result))
        report.write_table(workdir, rows)
        print(f"[{len(rows)}/{search.total}] {_line(point, result)}", flush=True)

    while points := search.ask(_batch_size(sweep)):
        _run(sweep, points, search, ended)
    if not rows or sweep.asked.dry_run:
        return
    table = sweeps.read_sweep(workdir)
    print(f"\n{report.show(sweeps.leaderboard(table))}\n\n{SCORE}: energy distance on the validation conditions, as a ")
    print(f"fraction of the control's.\nEvery point, with its command: {workdir / report.TABLE_FILE}")
    report.write_report(
        workdir, table, _NOTES[isinstance(search, tune.PopulationSearch)], "seconds" in sweep.asked.objectives
    )
    if sweep.asked.winner and (table["state"] == "finished").any():
        if isinstance(search, tune.PopulationSearch):
            _evaluate_best_run(sweep, search.config, table)
        else:
            _evaluate_winner(sweep, table)


def _batch_size(sweep: Sweep) -> int:
    """Count the points that are asked for at once: all of a list, as many as a search can do without results."""
    if sweep.asked.at_once and sweep.asked.search != "asha":
        return sweep.asked.at_once
    if sweep.asked.launcher == "inline":
        return 1
    return 32 if sweep.asked.search == "optuna" or sweep.asked.launcher == "population" else 10**6


def _row(point: Point, result: Result) -> dict[str, Any]:
    return {**point.settings, **result._asdict(), "folder": point.folder.name, "command": point.command}


def _point(sweep: Sweep, settings: dict[str, Any], number: int, numbered: bool) -> Point:
    folder = sweep.workdir / (f"{number:03d}" if numbered else folder_name(settings))
    overrides = config_flags.get_override_values(sweep.asked["config"])
    _check_texts(sweep, settings, overrides)
    overrides |= {"replicas": 1} if sweep.asked.config.replicas > 1 else {}
    command = command_of(sweep.call.door_of("run"), sweep.source, {**overrides, **settings}, folder)
    with contextlib.suppress(KeyError, TypeError, ValueError):  # of settings that the config does not have: said later
        digest = digest_of(configure(sweep.config, settings))
        return Point(settings, folder, command, digest)
    return Point(settings, folder, command)


def _check_texts(sweep: Sweep, settings: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Refuse None in the place of a text, ``ValueError``: no command line could repeat that point."""
    for name, value in settings.items():
        with contextlib.suppress(KeyError, TypeError):  # of no such field: said later
            now = settings_in(sweep.asked.config.to_dict(), [name])[name]
            if value is None and name not in overrides and isinstance(now, str):
                raise ValueError(f"get_sweep() has {name!r}: None, but the config has a text there. Make that None.")


def _search(sweep: Sweep) -> searches.Search:
    path, workdir = pathlib.Path(sweep.source.partition(":")[0]), sweep.workdir
    module, point = load_config(path), functools.partial(_point, sweep)
    if sweep.asked.search == "grid":
        return searches.Listed([point(each, number, False) for number, each in enumerate(grid_of(module, path))])
    if not hasattr(module, "get_space"):
        raise ValueError(
            f"{path} has no get_space(). Add one that returns a dict, {{'fit.learning_rate': ('log', 1e-4, 1e-2)}}."
        )
    if sweep.asked.search == "pbt":
        asked = (sweep.asked.points, sweep.asked.search_seed, sweep.config, sweep.source, sweep.call.text)
        return tune.PopulationSearch(workdir, module.get_space(), *asked)
    if sweep.asked.search in ("random", "asha"):
        drawn = searches.random_settings(module.get_space(), sweep.asked.points, sweep.asked.search_seed)
        return searches.Listed([point(each, number, True) for number, each in enumerate(drawn)])
    unknown = [name for name in sweep.asked.objectives if name not in searches.OBJECTIVES]
    if unknown:
        raise ValueError(f"objectives has {unknown[0]!r}; pass some of {', '.join(searches.OBJECTIVES)}.")

    def proposed(settings: dict[str, Any], number: int) -> Point:
        return point(settings, number, True)._replace(trial=number)

    return searches.Optuna(
        workdir, module.get_space(), sweep.asked.points, sweep.asked.search_seed, sweep.asked.objectives, proposed
    )


def _run(sweep: Sweep, points: list[Point], search: searches.Search, ended: Callable[[Point, Result], None]) -> None:
    """Train points, and tell of each; those that ended in an earlier call are read back."""
    waiting = []
    for point in points:
        found = earlier_result(point)
        if found is not None and found.state != "failed":
            ended(point, found)
            continue
        (point.folder / RESULT_FILE).unlink(missing_ok=True)  # what failed is tried again
        waiting.append(point)
    if waiting and isinstance(search, tune.PopulationSearch):
        search.train(waiting, ended)
    elif waiting and sweep.asked.search == "asha":
        earlier = [point for point in points if point not in waiting]
        tune.asha(waiting, earlier, sweep.config, sweep.source, sweep.workdir, sweep.asked.at_once, ended)
    elif waiting:
        for point, result in _launched(sweep, waiting):
            ended(point, result)


def _launched(sweep: Sweep, points: list[Point]) -> Iterator[tuple[Point, Result]]:
    """Yield points as they end, trained by the launcher that was asked for."""
    if sweep.asked.launcher == "inline":
        yield from launchers.inline(points, sweep.config, sweep.source, _report_of(sweep))
    elif sweep.asked.launcher == "population":
        yield from launchers.population(points, sweep.config, sweep.source)
    elif sweep.asked.launcher == "ray":
        yield from launchers.ray(points, functools.partial(_command_alone, sweep))
    else:
        parameters = {"timeout_min": sweep.asked.slurm_minutes}
        if sweep.asked.slurm_cluster == "slurm":
            parameters = {"slurm_time": sweep.asked.slurm_minutes, "slurm_cpus_per_task": sweep.asked.slurm_cpus}
            parameters |= {"slurm_gpus_per_task": sweep.asked.slurm_gpus} if sweep.asked.slurm_gpus else {}
            parameters |= {"slurm_partition": sweep.asked.slurm_partition} if sweep.asked.slurm_partition else {}
        alone = functools.partial(_command_alone, sweep)
        yield from launchers.slurm(
            points, alone, sweep.workdir / "slurm", sweep.asked.slurm_cluster, sweep.asked.dry_run, **parameters
        )


def _report_of(sweep: Sweep) -> Callable[[Point], Any]:
    """Find who is told of a point's errors, and may stop it: the study of a search with one objective."""

    def report_of(point: Point) -> Any:
        if point.trial is None or len(sweep.asked.objectives) > 1:
            return None
        every = point.settings.get("fit.eval_every", sweep.asked.config.fit.eval_every)
        return searches.reporter(sweep.workdir, point.trial, lambda step: step // every)

    return report_of


def _command_alone(sweep: Sweep, point: Point) -> list[str]:
    """Write the command of a process that trains one point."""
    overrides = config_flags.get_override_values(sweep.asked["config"])
    asked = {**point._asdict(), "folder": str(point.folder.resolve())}
    return [
        *(sys.executable, "-m", "pdae_jax.cli", "sweep"),
        f"--config={_resolved(sweep.source)}",
        *(f"--config.{name}={value}" for name, value in overrides.items()),
        f"--workdir={sweep.workdir.resolve()}",
        f"--objectives={','.join(sweep.asked.objectives)}",
        f"--point={json.dumps(asked)}",
    ]


def _resolved(source: str) -> str:
    path, colon, arg = source.partition(":")
    return f"{pathlib.Path(path).resolve()}{colon}{arg}"


def _train_alone(sweep: Sweep, asked: dict[str, Any]) -> None:
    point = Point(**{**asked, "folder": pathlib.Path(asked["folder"])})
    train_point(sweep.config, point, sweep.source, _report_of(sweep)(point))


def _evaluate_winner(sweep: Sweep, table: Any) -> None:
    """Train the best settings, over seeds where there are some, from another start, and evaluate them once."""
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
    best_point, workdir = str(done.loc[best, "folder"]), sweep.workdir
    settings = json.loads((workdir / best_point / "config.json").read_text())["config"]
    config = configure(sweep.asked.config, settings_in(settings, names))
    folder = workdir / WINNER_FOLDER
    if (folder / "config.json").exists():  # of a sweep that had fewer points
        earlier = json.loads((folder / "config.json").read_text())["config"].get("point")
        folder = folder if earlier == best_point else workdir / f"{WINNER_FOLDER}-{best_point}"
    experiment, replicas = read_data(config), sweep.asked.config.replicas
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
            "file": sweep.source,
            "command": sweep.call.text,
            "point": best_point,
            **config.to_dict(),
            "evaluation": experiment.evaluation,
        },
    )
    results.save_test(folder, experiment.test)
    print(f"\nThe winner, {best_point}, from another start, on the test conditions ({folder}):")
    print(results.write_results(folder, command=sweep.call.text, **experiment.evaluation))


def _evaluate_best_run(sweep: Sweep, config: Any, table: Any) -> None:
    """Evaluate the best run of a population as it is: its settings changed on the way, and no fit repeats it."""
    best = str(table.loc[table[table["state"] == "finished"][SCORE].idxmin(), "folder"])
    experiment, folder = read_data(config), sweep.workdir / best
    results.save_test(folder, experiment.test)
    print(f"\nThe winner, {best}, as it is, on the test conditions ({folder}):")
    print(results.write_results(folder, command=sweep.call.text, **experiment.evaluation))


def _line(point: Point, result: Result) -> str:
    ending = f"{result.score:.4f}" if result.state == "finished" else f"{result.state}: {result.error}"
    return f"{folder_name(point.settings)}  {ending}  ({result.seconds:.1f} s)"

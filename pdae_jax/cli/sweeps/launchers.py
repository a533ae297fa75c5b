"""Where points are trained: here, together in one program, on a Ray cluster, or as an array of Slurm jobs."""

import os
import pathlib
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pdae_jax import build
from pdae_jax.cli.reading import read_data
from pdae_jax.cli.sweeps.points import (
    Point,
    Result,
    await_others,
    configure,
    earlier_result,
    save_result,
    score_of,
    train_point,
)
from pdae_jax.runs.files import write_text
from pdae_jax.training.plan import Request
from pdae_jax.training.train import train_requests

# (point) -> command line of a process that trains it and keeps its result
Alone = Callable[[Point], list[str]]


def inline(
    points: Sequence[Point], config: Any, source: str, report_of: Callable[[Point], Any]
) -> Iterator[tuple[Point, Result]]:
    """Train points one after the other, in this process."""
    for point in points:
        yield point, train_point(config, point, source, report_of(point))


def population(points: Sequence[Point], config: Any, source: str) -> Iterator[tuple[Point, Result]]:
    """Train points together: those that differ in values of the compiled step only share it, see `fit_population`."""
    experiments: dict[str, build.Experiment] = {}
    requests, asked = [], []
    start = time.perf_counter()
    for point in points:
        if (found := await_others(point)) is not None:
            yield point, found
            continue
        try:
            own = configure(config, point.settings)
            which = repr((own.seed, own.data.to_dict(), own.split.to_dict(), own.evaluation.to_dict()))
            if which not in experiments:  # points of the same data share them on the device
                experiments[which] = read_data(own)
            experiment = experiments[which]
            recipe = build.recipe(own.fit)
        except Exception as error:
            result = Result(float("nan"), 0.0, 0, "failed", f"{type(error).__name__}: {error}")
            yield point, save_result(point, result)
            continue
        provenance = {"file": source, "command": point.command, **own.to_dict()}
        requests.append(
            Request(
                experiment.train,
                experiment.key,
                recipe,
                experiment.validation,
                experiment.source,
                point.folder,
                provenance,
            )
        )
        asked.append(point)
    outcomes = train_requests(requests, progress=True, tolerant=True) if requests else []
    seconds = (time.perf_counter() - start) / max(len(asked), 1)  # of each: they were trained together
    for point, outcome in zip(asked, outcomes, strict=True):
        try:
            if outcome.fitted is None:
                raise RuntimeError(outcome.error)
            result = Result(score_of(outcome.fitted), seconds, outcome.steps, "finished")
        except (RuntimeError, ValueError) as error:
            result = Result(float("nan"), seconds, outcome.steps, "failed", str(error))
        yield point, save_result(point, result)


def ray(points: Sequence[Point], alone: Alone) -> Iterator[tuple[Point, Result]]:
    """Train each point as a task of Ray, here or on the cluster of ``RAY_ADDRESS``, which shares the folder."""
    library, gpus = start_ray()
    run = library.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_call)
    waiting = {run.remote(alone(point), str(pathlib.Path.cwd())): point for point in points}
    while waiting:
        (done,), _ = library.wait(list(waiting))
        point = waiting.pop(done)
        yield point, result_of(point, library.get(done))


def start_ray() -> tuple[Any, int]:
    """Start Ray here, or join the cluster of ``RAY_ADDRESS``; return it, and how many GPUs a point has."""
    import ray as library  # pyright: ignore[reportMissingImports]

    address = os.environ.get("RAY_ADDRESS")
    if not library.is_initialized():
        try:
            library.init(address=address, include_dashboard=False, log_to_driver=False)
        except ConnectionError as error:
            raise ConnectionError(
                f"No Ray cluster answers at RAY_ADDRESS={address}. Look whether `ray status` finds it there. A cluster "
                f"with a token (the default of new versions of Ray) needs RAY_AUTH_MODE=token here too."
            ) from error
    return library, 1 if library.cluster_resources().get("GPU") else 0


def slurm(
    points: Sequence[Point], alone: Alone, folder: pathlib.Path, cluster: str, dry_run: bool, **parameters: Any
) -> Iterator[tuple[Point, Result]]:
    """Train points as an array of Slurm jobs, by submitit; ``cluster="local"`` runs the same jobs here.

    With `dry_run` the scripts are written, and nothing is submitted.
    """
    import submitit  # pyright: ignore[reportMissingImports]
    from submitit.helpers import CommandFunction  # pyright: ignore[reportMissingImports]

    commands = [CommandFunction(alone(point), cwd=str(pathlib.Path.cwd()), verbose=False) for point in points]
    if dry_run:
        _write_scripts(folder, points, alone, parameters)
        return
    executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
    executor.update_parameters(name="pdae-sweep", **parameters)
    with executor.batch():
        jobs = [executor.submit(command) for command in commands]
    for point, job in zip(points, jobs, strict=True):
        error = job.exception()  # waits
        for file in (job.paths.submitted_pickle, job.paths.result_pickle):
            file.unlink(missing_ok=True)  # a point keeps its result itself
        yield point, result_of(point, "" if error is None else str(error))


def _write_scripts(
    folder: pathlib.Path, points: Sequence[Point], alone: Alone, parameters: dict[str, Any]
) -> pathlib.Path:
    """Write what would be submitted: one array, a line of ``points.txt`` for each job."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "points.txt", "".join(shlex.join(alone(point)) + "\n" for point in points))
    lines = [f"#SBATCH --{name.removeprefix('slurm_').replace('_', '-')}={v}" for name, v in parameters.items()]
    script = [
        "#!/bin/bash",
        "#SBATCH --job-name=pdae-sweep",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --array=1-{len(points)}",
        f"#SBATCH --output={folder.resolve()}/%a.out",
        *lines,
        f"cd {shlex.quote(str(pathlib.Path.cwd()))}",
        f'eval "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str((folder / "points.txt").resolve()))})"',
    ]
    file = folder / "sweep.sbatch"
    write_text(file, "\n".join(script) + "\n")
    print(f"Written, and not submitted: {file}, for {len(points)} jobs. Submit it with: sbatch {file}")
    return file


def _call(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr[-2000:]


def result_of(point: Point, error: str) -> Result:
    """Return what the process of a point has kept; one that died has kept nothing."""
    found = earlier_result(point)
    if found is not None:
        return found
    last = error.strip().splitlines()[-1] if error.strip() else "its process ended without a result"
    return save_result(point, Result(float("nan"), 0.0, 0, "failed", last))

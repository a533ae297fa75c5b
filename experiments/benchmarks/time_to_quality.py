r"""Held-out energy distance against wall-clock: ours, and the published algorithm in eager PyTorch, on the same data.

    make bench SCRIPT=time_to_quality                                      # 11 minutes at most
    python experiments/benchmarks/time_to_quality.py --seeds=10,11 --torch_seconds=60

The world is that of ``experiments/configs/simulated.py``: 10 features, 4 latents, 10 training conditions, 5 held out.
Judged is the mean over the held-out conditions of the energy distance (U form) between 2,000 translated control cells
and the true cells, computed by one function for both sides. Held-out conditions only judge: nothing is chosen by them.

Each side has a process of its own, one after the other. Its clock starts when the data are in memory, the libraries
imported and the devices found, and stands still while predictions are judged; it counts building, compiling and
training.

``ours`` is the library's step on a recipe made for speed: small networks, few cells per source, a short schedule; the
averaged parameters predict; chosen on worlds 3, 4 and 5. With JAX 0.10
``--xla_flags="--xla_cpu_use_fusion_emitters=false --xla_cpu_prefer_vector_width=128"`` compiles in half the time, for
steps that take up to a third longer at the default recipe; later versions do not know the first flag.
``ours_again`` is the same in a second process, which finds the programs that the first has compiled.
``pytorch`` is the ungrouped loss on batches of 128 rows, plain ReLU networks from a random start, Adam at 1e-3, with
one thread or all, whichever is faster (found before its clock starts); its last parameters predict.
``pytorch_recipe`` is our recipe in eager PyTorch (`torch_recipe`): what the recipe is worth by itself.

All are judged whenever 5 % more steps are done, ours at the end of a compiled chunk of 25 steps. The ratios are those
of the times at which the target was first met; "more than" where PyTorch had not met it when its time was up.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from experiments.benchmarks.contenders import (
    FAST,
    Contender,
    Task,
    Translate,
    make_ours,
    make_pytorch,
    make_pytorch_recipe,
)
from experiments.configs import simulated
from pdae_jax import build, losses
from pdae_jax.compiled import cache_compilations
from pdae_jax.evaluation import baselines
from pdae_jax.recipe import Recipe
from pdae_jax.reporting.panels import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, clean
from pdae_jax.runs.store import load_data, save_data

OURS = ("ours", "ours_again")  # the second finds what the first has compiled
NUM_CELLS = 2000  # control cells that are translated
COLOURS = {"ours": BLUE, "ours_again": SKY, "pytorch": VERMILION, "pytorch_recipe": GREEN}
NAMES = {
    "ours": "ours",
    "ours_again": "ours, programs cached",
    "pytorch": "published algorithm, PyTorch",
    "pytorch_recipe": "our recipe, eager PyTorch",
}

SEEDS = flags.DEFINE_list("seeds", ["10"], "worlds")
TARGET = flags.DEFINE_float("target", 0.05, "mean held-out energy distance to reach")
TORCH_SECONDS = flags.DEFINE_float("torch_seconds", 600.0, "what PyTorch is given")
RECIPE = flags.DEFINE_string("recipe", json.dumps(FAST), "of ours: JSON, fields of pdae_jax.Recipe")
XLA_FLAGS = flags.DEFINE_string("xla_flags", "", "of ours, beside those of the environment")
OUT = flags.DEFINE_string("out", "runs/bench/time_to_quality.csv", "table; the plot is put beside it")
WORKER = flags.DEFINE_enum("worker", None, list(COLOURS), "measure this side (the script calls itself)")
FOLDER = flags.DEFINE_string("folder", None, "of a worker: data, and where its curve goes")


class Point(NamedTuple):
    seconds: float
    step: int
    energy_distance: float


def held_out_distance(task: Task, translate: Translate) -> float:
    """Mean over the held-out conditions of the energy distance of translated control cells to the true ones."""
    x = task.train.cells(task.train.control)[:NUM_CELLS]
    distances = [
        losses.energy_distance(translate(x, task.test.label(name)), task.test.cells(name))
        for name in task.test.conditions
    ]
    return float(np.mean([float(distance) for distance in distances]))


def measure(
    make: Callable[[], Contender],
    judge: Callable[[Translate], float],
    *,
    max_steps: float = np.inf,
    max_seconds: float = np.inf,
    target: float = -np.inf,
) -> list[Point]:
    """The curve of a contender, until a limit or the target is met; time for judging is not counted."""
    begin = time.perf_counter()
    judging = 0.0
    contender = make()
    points, step, due = [], 0, 1.0
    while step < max_steps:
        step += contender.advance()
        now = time.perf_counter()
        seconds = now - begin - judging
        last = step >= max_steps or seconds >= max_seconds
        if step < due and not last:
            continue
        due = 1.05 * step
        points.append(Point(seconds, step, judge(contender.translate)))
        judging += time.perf_counter() - now
        if last or points[-1].energy_distance <= target:
            break
    return points


def asked_recipe() -> tuple[Recipe, int]:
    """That of the flag, and the steps after which ours stops."""
    recipe = Recipe.from_dict(json.loads(RECIPE.value))
    if recipe.num_steps is None:
        raise app.UsageError("--recipe names no num_steps, the steps after which ours stops. Add them.")
    return recipe, recipe.num_steps


def work(side: str, folder: pathlib.Path, seed: int) -> None:
    """One side in this process; its curve goes to the folder."""
    task = Task(load_data(folder / "train.npz"), load_data(folder / "test.npz"), seed)

    def judge(translate: Translate) -> float:
        return held_out_distance(task, translate)

    if side in OURS:
        cache_compilations(folder / "programs")
        jax.devices()
        recipe, num_steps = asked_recipe()
        points = measure(lambda: make_ours(task, recipe), judge, max_steps=num_steps)
    else:
        import torch  # pyright: ignore[reportMissingImports]

        from experiments.benchmarks.torch_reference import fastest_threads

        recipe, num_steps = asked_recipe()
        published = side == "pytorch"
        max_steps = np.inf if published else num_steps

        def make(task: Task) -> Contender:
            return make_pytorch(task) if published else make_pytorch_recipe(task, recipe)

        ms, threads = fastest_threads(lambda: make(task).advance)
        torch.set_num_threads(threads)
        print(f"{side}: {ms:.1f} ms per step on {threads} thread(s)", flush=True)
        points = measure(
            lambda: make(task), judge, max_steps=max_steps, max_seconds=TORCH_SECONDS.value, target=TARGET.value
        )
    (folder / f"{side}.json").write_text(json.dumps(points))


def run_world(seed: int) -> tuple[dict[str, list[Point]], dict[str, float]]:
    """Curves of both sides, and the energy distances of the baselines."""
    config = simulated.get_config()
    config.seed = seed
    experiment = build.experiment(config)
    assert experiment.test is not None
    task = Task(experiment.train, experiment.test, seed)
    lines = {name: baseline_distance(task, name) for name in ("control", "additive", "linear_regression")}
    curves = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        save_data(folder / "train.npz", task.train)
        save_data(folder / "test.npz", task.test)
        for side in COLOURS:
            arguments = [f"--worker={side}", f"--folder={folder}", f"--seeds={seed}", f"--target={TARGET.value}"]
            arguments += [f"--recipe={RECIPE.value}", f"--torch_seconds={TORCH_SECONDS.value}"]
            environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS.value}".strip()}
            command = [sys.executable, __file__, *arguments]
            subprocess.run(command, check=True, env=environment if side in OURS else None)
            curves[side] = [Point(*point) for point in json.loads((folder / f"{side}.json").read_text())]
    return curves, lines


def baseline_distance(task: Task, name: str) -> float:
    predict, key = baselines.BASELINES[name], jax.random.key(task.seed)
    return held_out_distance(task, lambda x, label: predict(key, task.train, label, len(x)))


def time_to(points: Sequence[Point], target: float) -> float | None:
    """Seconds until the target was first met; None if it never was."""
    return next((p.seconds for p in points if p.energy_distance <= target), None)


def ratio_of(curves: dict[str, list[Point]], target: float, side: str) -> tuple[float | None, bool]:
    """The time of a side over ours, and whether it is only a lower bound; None where ours missed the target."""
    ours, theirs = (time_to(curves[name], target) for name in ("ours", side))
    if ours is None:
        return None, False
    return (theirs or curves[side][-1].seconds) / ours, theirs is None


def describe(side: str, points: Sequence[Point], target: float) -> str:
    reached = time_to(points, target)
    best = min(points, key=lambda p: p.energy_distance)
    when = f"reached {target:g} after {reached:.1f} s" if reached else f"did not reach {target:g}"
    return (
        f"  {side:8} {when}; best {best.energy_distance:.4f} after {best.seconds:.1f} s, "
        f"last {points[-1].energy_distance:.4f} after {points[-1].seconds:.1f} s and {points[-1].step} steps; "
        f"first {points[0].step} step(s) done after {points[0].seconds:.2f} s"
    )


def plot(worlds: dict[int, tuple[dict[str, list[Point]], dict[str, float]]], target: float) -> Figure:
    """Both curves of every world; of the baselines the mean over the worlds."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (curves, _) in enumerate(worlds.values()):
        for side, points in curves.items():
            x, y = [p.seconds for p in points], [p.energy_distance for p in points]
            label = NAMES[side] if number == 0 else None
            axes.plot(x, y, color=COLOURS[side], lw=1.8, marker="o", ms=2.5, label=label, zorder=3)
    lines = {
        name: float(np.mean([lines[name] for _, lines in worlds.values()])) for name in next(iter(worlds.values()))[1]
    }
    best = min((name for name in lines if name != "control"), key=lambda name: lines[name])
    axes.axhline(lines["control"], color=GREY, lw=1.2, ls="--", label="control cells")
    axes.axhline(lines[best], color=ORANGE, lw=1.2, ls="--", label=best.replace("_", " "))
    axes.axhline(target, color="black", lw=0.8, ls=":", label=f"target {target:g}")
    axes.set(xscale="log", yscale="log", xlabel="seconds, compilation included", ylabel="held-out energy distance")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    clean(axes)
    return figure


def summarise(worlds: dict[int, Any], target: float) -> str:
    """Smallest and median ratios over the worlds."""
    return "; ".join(_summary_of(worlds, target, side) for side in COLOURS if side != "ours")


def _summary_of(worlds: dict[int, Any], target: float, side: str) -> str:
    ratios = [ratio_of(curves, target, side) for curves, _ in worlds.values()]
    found = [(ratio, bound) for ratio, bound in ratios if ratio is not None]
    if len(found) < len(ratios):
        return f"ours missed {target:g} in {len(ratios) - len(found)} of {len(ratios)} worlds"
    more = "more than " if any(bound for _, bound in found) else ""
    values = [ratio for ratio, _ in found]
    return f"{side}'s time over ours: {more}{min(values):.1f} at least, median {more}{np.median(values):.1f}"


def main(_):
    if WORKER.value and FOLDER.value:
        work(WORKER.value, pathlib.Path(FOLDER.value), int(SEEDS.value[0]))
        return
    asked_recipe()  # refused here and not in the worker
    path, target = pathlib.Path(OUT.value), TARGET.value
    path.parent.mkdir(parents=True, exist_ok=True)
    worlds = {}
    for seed in map(int, SEEDS.value):
        worlds[seed] = curves, lines = run_world(seed)
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in lines.items()))
        for side, points in curves.items():
            print(describe(side, points, target))
        print(f"  {summarise({seed: worlds[seed]}, target)}", flush=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "method", *Point._fields])
        for seed, (curves, lines) in worlds.items():
            writer.writerows([seed, side, *point] for side, points in curves.items() for point in points)
            writer.writerows([seed, name, "", "", value] for name, value in lines.items())
    plot(worlds, target).savefig(path.with_suffix(".png"), dpi=200)
    print(f"{summarise(worlds, target)}; {len(worlds)} world(s); table and plot in {path.parent}")


if __name__ == "__main__":
    app.run(main)

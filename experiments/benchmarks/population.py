"""A population in one process, beside as many fits one after the other, and beside PyTorch; compilation included.

    make bench SCRIPT=population
    python experiments/benchmarks/population.py --members=32 --steps=500 --worlds=2-d,10-d

Members differ in the learning rate. Each side runs in a process of its own, which starts when the data are in memory:

* `population`: `fit_population`, on a CPU with one host device a core;
* `one process`: as many calls of `fit`, which share the compiled step;
* `processes`: a process for each fit, as users start them: two are run, one after the other, and stand for all;
* `pytorch`: the published loss in eager PyTorch (`torch_reference`), a process for each: 15 seconds of steps stand for
  all steps of all members.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from experiments.configs import simulated
from pdae_jax import PerturbationData, build, fit, fit_population

MEMBERS = flags.DEFINE_integer("members", 32, "how many")
STEPS = flags.DEFINE_integer("steps", 500, "of each")
WORLDS = flags.DEFINE_list("worlds", ["2-d", "10-d"], "of 2-d, 10-d")
PLACES = flags.DEFINE_integer("at_once", None, "members that train at once; default: as the library chooses")
SIDE = flags.DEFINE_string("side", None, "run one side of one world only, and print what it took")
_CONFIGS = {"2-d": "plane", "10-d": "default"}
_MEASURED = 2  # processes that stand for all
_SECONDS = 15.0  # of PyTorch


def main(_):
    if SIDE.value:
        world, side = SIDE.value.split("/")
        print(json.dumps({"seconds": SIDES[side](world), "bytes": _peak()}))
        return
    number = MEMBERS.value
    print(f"{number} members, {STEPS.value} steps each, {jax.devices()[0].device_kind}, {os.cpu_count()} cores")
    for world in WORLDS.value:
        found = {side: [_run(world, side)] for side in ("population", "one process", "pytorch")}
        found["processes"] = [_run(world, "single") for _ in range(_MEASURED)]
        scale = {"processes": number / _MEASURED}
        total = {side: scale.get(side, 1.0) * sum(run["seconds"] for run in runs) for side, runs in found.items()}
        for side, seconds in total.items():
            memory = max(run["bytes"] for run in found[side]) / 2**30
            share = total["population"] / seconds
            print(f"{world:5} {side:12} {seconds:8.1f} s  {memory:.2f} GB; the population takes {share:.3f} of it")


def _run(world: str, side: str) -> dict[str, float]:
    flags_of_xla = os.environ.get("XLA_FLAGS", "")
    if side == "population":
        flags_of_xla += f" --xla_force_host_platform_device_count={os.cpu_count()}"
    command = [sys.executable, *sys.argv, f"--side={world}/{side}"]
    environment = {**os.environ, "XLA_FLAGS": flags_of_xla}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _asked(world: str) -> tuple[PerturbationData, list[dict[str, Any]], dict[str, Any]]:
    """Data and options of a fit, and the settings of the members."""
    experiment = build.experiment(simulated.get_config(_CONFIGS[world]))
    steps = STEPS.value
    changes = {"num_steps": steps, "log_every": min(100, steps), "eval_every": steps, "checkpoint_every": steps}
    options: dict[str, Any] = {
        "key": experiment.key,
        "validation": experiment.validation,
        "recipe": experiment.recipe.override(**changes),
        "progress": False,
    }
    settings = [{"learning_rate": float(rate)} for rate in np.geomspace(1e-3, 1e-2, MEMBERS.value)]
    return experiment.train, settings, options


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _population(world: str) -> float:
    train, settings, options = _asked(world)
    return _timed(lambda: fit_population(train, settings, at_once=PLACES.value, **options))


def _one_process(world: str) -> float:
    train, settings, options = _asked(world)
    return _timed(lambda: [fit(train, **options, **setting) for setting in settings])


def _single(world: str) -> float:
    train, settings, options = _asked(world)
    return _timed(lambda: fit(train, **options, **settings[0]))


def _pytorch(world: str) -> float:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks import torch_reference as reference
    from pdae_jax.view.units import make_standardizer

    train, _, _ = _asked(world)
    torch.manual_seed(0)
    x = torch.from_numpy(make_standardizer(train, "feature").forward(train.x).astype(np.float32))
    labels = torch.from_numpy(train.labels[train.condition_index])
    fastest = np.inf
    for threads in {1, torch.get_num_threads()}:
        torch.set_num_threads(threads)
        step = reference.make_step(reference.make_networks(reference.SETTINGS[world]), x, labels)
        step()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < _SECONDS:
            step()
            steps += 1
        fastest = min(fastest, (time.perf_counter() - start) / steps)
    return fastest * STEPS.value * MEMBERS.value


SIDES = {"population": _population, "one process": _one_process, "single": _single, "pytorch": _pytorch}

if __name__ == "__main__":
    app.run(main)

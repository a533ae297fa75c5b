"""What replicas cost together, as a population, and apart, in as many runs; compilation included.

    make bench SCRIPT=ensemble_cost
    python experiments/benchmarks/ensemble_cost.py --replicas=8 --steps=2000 --hidden=64,64

Each side runs in a process of its own and starts when the data are in memory. `apart` is one fit times the number of
replicas, as users start them; `apart, one process` is the same after the first one, when all is compiled.
"""

import json
import subprocess
import sys
import time

import jax
from absl import app, flags

from experiments.configs import simulated
from pdae_jax import build, fit, fit_ensemble

REPLICAS = flags.DEFINE_integer("replicas", 5, "how many")
STEPS = flags.DEFINE_integer("steps", 1000, "of each fit")
HIDDEN = flags.DEFINE_list("hidden", ["128", "128", "128"], "widths")
SIDE = flags.DEFINE_enum("side", None, ["together", "apart"], "run one side only and print its seconds")


def main(_):
    if SIDE.value:
        print(json.dumps(seconds_of(SIDE.value)))
        return
    found = {}
    for side in ("apart", "together"):
        command = [sys.executable, *sys.argv, f"--side={side}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[side] = json.loads(output.splitlines()[-1])
    number, (first, second), (together,) = REPLICAS.value, found["apart"], found["together"]
    print(f"{number} replicas, {STEPS.value} steps, widths {'-'.join(HIDDEN.value)}, {jax.devices()[0].device_kind}")
    for name, total in (("apart", number * first), ("apart, one process", first + (number - 1) * second)):
        print(f"{name}: {total:.1f} s; together: {together:.1f} s, {together / total:.2f} of it")


def seconds_of(side: str) -> list[float]:
    """Seconds of an ensemble; or of a first and a second fit."""
    experiment = build.experiment(simulated.get_config())
    options = {
        "validation": experiment.validation,
        "recipe": experiment.recipe.override(
            num_steps=STEPS.value, hidden=tuple(int(width) for width in HIDDEN.value), eval_every=STEPS.value,
            log_every=100, checkpoint_every=STEPS.value,
        ),
        "progress": False,
    }  # fmt: skip
    found = []
    for run in range(1 if side == "together" else 2):
        key = jax.random.fold_in(experiment.key, run)
        start = time.perf_counter()
        if side == "together":
            fit_ensemble(experiment.train, key=key, num_replicas=REPLICAS.value, bootstrap=False, **options)
        else:
            fit(experiment.train, key=key, **options)
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    app.run(main)

"""Weak scaling over host devices, and the bytes that devices exchange in a step, from the compiled program.

    make bench SCRIPT=devices
    python experiments/benchmarks/devices.py --numbers=1,2,4,8

Each device has 8 targets of a batch, so that work grows with devices. Times on the host devices of one machine say
how much is lost by sharing, up to its number of cores, and nothing beyond. Bytes are those of the results of all
collectives of one step; they do not depend on the machine, and a ring moves up to twice as many over each link.
"""

import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import jax
from absl import app, flags

from experiments.configs import simulated
from pdae_jax import build
from pdae_jax.training.devices import make_devices
from pdae_jax.training.plan import Request, check_request, make_plan
from pdae_jax.training.prepare import prepare
from pdae_jax.training.step import make_train_steps
from pdae_jax.view.sampler import DeviceData

NUMBERS = flags.DEFINE_list("numbers", ["1", "2", "4", "8"], "of devices")
ONE = flags.DEFINE_integer("one", None, "measure this number only, in a process that has as many host devices")
TARGETS = 8  # of each device; the world has 80 conditions
STEPS = 20
_BYTES = {"f32": 4, "f64": 8, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "f16": 2}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def main(_):
    if ONE.value:
        print(json.dumps(measure(ONE.value)))
        return
    print(f"{os.cpu_count()} cores, {TARGETS} targets a device")
    titles = f"{'devices':>7} {'ms a step':>10} {'ms a step and device':>21} {'parameters':>11} {'bytes a step':>13}"
    print(f"{titles}  collectives")
    for number in NUMBERS.value:
        flags_of_xla = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={number}"
        environment = {**os.environ, "XLA_FLAGS": flags_of_xla, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *sys.argv, f"--one={number}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        found = json.loads(output.splitlines()[-1])
        collectives = ", ".join(f"{count} {name} {size:,} B" for name, (count, size) in found["collectives"].items())
        total = sum(size for _, size in found["collectives"].values())
        each = found["ms"] / int(number)
        print(f"{number:>7} {found['ms']:10.1f} {each:21.1f} {found['parameters']:11,} {total:13,}  {collectives}")


def measure(number: int) -> dict:
    """Time of a step, and its collectives."""
    config: Any = simulated.get_config()
    config.data.update(num_perturbations=12, cells_per_condition=100)
    singles = [f"p{i}" for i in range(12)]
    config.data.labels = (*singles, *(f"{a}+{b}" for i, a in enumerate(singles) for b in singles[i + 1 :]))
    config.split.update(test=("p0+p1",), validation=("p0+p2",))
    experiment = build.experiment(config)
    recipe = experiment.recipe.override(num_targets=TARGETS * number, num_steps=1000)
    shared = make_devices(number) if number > 1 else None
    devices = None if shared is None else shared.number
    request = Request(experiment.train, experiment.key, recipe, streams=1, devices=devices)
    parts = prepare(make_plan(check_request(request)))
    state = parts.state.train if shared is None else shared.everywhere(parts.state.train)
    assert isinstance(parts.data, DeviceData)
    single = make_train_steps(parts.step, 1).lower(state, parts.data).compile()
    steps = make_train_steps(parts.step, STEPS)
    state, _ = jax.block_until_ready(steps(state, parts.data))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(steps(state, parts.data))
        best = min(best, (time.perf_counter() - start) / STEPS)
    return {
        "ms": 1e3 * best,
        "parameters": int(parts.state.kept.size),
        "collectives": collectives_of(single.as_text()),
    }


def collectives_of(program: str) -> dict[str, tuple[int, int]]:
    """Number and bytes of the results of each kind of collective in a compiled program."""
    found: dict[str, tuple[int, int]] = {}
    for line in program.splitlines():
        match = re.search(r"= (.*?) (" + "|".join(_COLLECTIVES) + r")(?:-start)?\(", line)
        if not match:
            continue
        size = 0
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
            number = 1
            for axis in shape.split(","):
                number *= int(axis) if axis else 1
            size += number * _BYTES.get(kind, 4)
        count, total = found.get(match[2], (0, 0))
        found[match[2]] = (count + 1, total + size)
    return found


if __name__ == "__main__":
    app.run(main)

"""Kill runs and sweeps at all sorts of moments, start them again, and compare with what was never killed.

    make test-faults                                       # 40 kills and more, a quarter of an hour
    python experiments/lab/faults.py --kills=6 --table=faults.csv

Each kill is SIGKILL, to a fresh run, at a moment found by looking at its folder: in set-up (before the first line of
metrics), between two steps, while a checkpoint is being written, in the evaluation, while results are written, and in
a sweep, whose points train together or one after the other. One run in three is killed a second time, as it goes on.
The run that then goes on to its end must have the parameters, the metrics and the evaluation of the unbroken one, bit
for bit, and must have repeated no more steps than lie between two checkpoints. Exit status 1 if one has not, or if one
was never killed.
"""

import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from pdae_jax import load_run
from pdae_jax.cli.command import Call, execute
from pdae_jax.runs.track import read_metrics

EVERY = 40  # steps between checkpoints
_ATTEMPTS = 5  # to kill a run
_REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG_TEXT = f"""
from experiments.configs import simulated

def get_config(arg="default"):
    config = simulated.get_config("smoke")
    config.data.update(latent_dim=2, observed_dim=4, num_perturbations=3, cells_per_condition=200)
    config.data.labels = ("p0", "p1", "p2", "p0+p1", "p1+p2", "p0+p2")
    config.split.validation, config.split.test = ("p1+p2",), ("p0+p2",)
    config.fit.update(latent_dim=2, num_steps=400, log_every=10, eval_every=20, checkpoint_every={EVERY})
    config.evaluation.update(num_samples=150, baselines=("additive",), metrics=("energy_distance", "mean_l2"))
    return config

def get_sweep():
    for rate in (1e-3, 2e-3, 4e-3):
        yield {{"fit.learning_rate": rate}}
"""


class Kill(NamedTuple):
    """What was done to one run, and what came of it."""

    moment: str
    kills: int
    step: int  # last logged before the last kill
    repeated: int  # steps that were taken again
    same: bool
    note: str = ""


def define(values):
    flags.DEFINE_integer("kills", 42, "how many runs are killed, the moments taken in turn", flag_values=values)
    flags.DEFINE_string("table", None, "file for the table, .csv", flag_values=values)
    flags.DEFINE_integer("fault_seed", 0, "of the moments", flag_values=values)


def main(asked, call):
    with tempfile.TemporaryDirectory(prefix="pdae_jax-faults-") as scratch:
        kills = list(run_all(pathlib.Path(scratch), asked.kills, asked.fault_seed))
    if asked.table:
        with open(asked.table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Kill._fields)
            writer.writerows(kills)
    print(f"\n{'moment':12} {'runs':>5} {'kills':>6} {'steps repeated':>15} {'as unbroken':>12}")
    for moment in MOMENTS:
        own = [kill for kill in kills if kill.moment == moment]
        if own:
            number, worst = sum(kill.kills for kill in own), max(kill.repeated for kill in own)
            print(f"{moment:12} {len(own):5} {number:6} {worst:15} {sum(kill.same for kill in own):>6} of {len(own)}")
    print(f"{sum(kill.kills for kill in kills)} kills")
    if not all(kill.same and kill.kills for kill in kills):
        sys.exit(1)


def run_all(scratch: pathlib.Path, number: int, seed: int) -> Iterator[Kill]:
    """Kill `number` runs, and see what becomes of them."""
    config = scratch / "tiny.py"
    config.write_text(CONFIG_TEXT)
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        **os.environ,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def command(kind: str, folder: pathlib.Path) -> list[str]:
        script = "run" if kind == "run" else "sweep"
        more = [] if kind == "run" else [f"--launcher={kind}", "--nowinner"]
        return [sys.executable, f"experiments/{script}.py", f"--config={config}", f"--workdir={folder}", *more]

    def finish(kind: str, folder: pathlib.Path) -> str:
        done = subprocess.run(
            command(kind, folder), cwd=_REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    dice, moments = random.Random(seed), list(MOMENTS)
    asked = [moments[row % len(moments)] for row in range(number)]
    kinds = [
        ("population", "inline")[row // len(moments) % 2] if m == "sweep" else "run" for row, m in enumerate(asked)
    ]
    for kind in sorted(set(kinds)):
        error = finish(kind, scratch / f"whole-{kind}")
        if error:
            raise RuntimeError(f"The unbroken {kind} failed: {error}")
    for row, (moment, kind) in enumerate(zip(asked, kinds, strict=True)):
        folder, step, kills, repeated = scratch / f"{row:03d}", 0, 0, 0
        for attempt in range(_ATTEMPTS):
            if not kill_at(command(kind, folder), environment, folder, MOMENTS[moment], dice):
                if kills or attempt == _ATTEMPTS - 1:
                    break
                shutil.rmtree(folder)  # it was through before the moment came: once more from the start
                continue
            kills, step = kills + 1, max(step, _last_step(folder))
            repeated = max([repeated, *(_last_step(run) - _last_checkpoint(run) for run in _runs(folder))])
            if kills == 2 or dice.random() > 1 / 3:
                break
        note = finish(kind, folder)
        same = not note and repeated <= EVERY and same_bits(scratch / f"whole-{kind}", folder, kind)
        kill = Kill(moment, kills, step, repeated, same, note)
        print(f"[{row + 1}/{number}] {kill}", flush=True)
        yield kill


def kill_at(
    command: list[str],
    environment: dict[str, str],
    folder: pathlib.Path,
    moment: Callable[[pathlib.Path, random.Random], bool],
    dice: random.Random,
) -> bool:
    """Start a process and kill it at the moment; False if it ended before."""
    process = subprocess.Popen(
        command,
        cwd=_REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    reached = moment(folder, dice)
    while not reached and process.poll() is None:
        time.sleep(0.001)
        reached = moment(folder, dice)
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def _runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """The run folders: the folder itself, or those of a sweep."""
    return [folder] if (folder / "config.json").exists() else [p.parent for p in sorted(folder.glob("*/config.json"))]


def _lines(folder: pathlib.Path) -> int:
    return sum(
        (run / "metrics.jsonl").read_bytes().count(b"\n") for run in _runs(folder) if (run / "metrics.jsonl").exists()
    )


def _last_step(folder: pathlib.Path) -> int:
    return max((e[-1]["step"] for run in _runs(folder) if (e := read_metrics(run / "metrics.jsonl"))), default=0)


def _last_checkpoint(folder: pathlib.Path) -> int:
    steps = [int(p.name) for run in _runs(folder) for p in (run / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


def _in_setup(folder: pathlib.Path, dice: random.Random) -> bool:
    begun = folder.exists() and _lines(folder) == 0
    return begun and dice.random() < 0.002  # anywhere in the time that it takes


def _between_steps(folder: pathlib.Path, dice: random.Random) -> bool:
    return _lines(folder) > 0 and dice.random() < 0.002


def _in_checkpoint(folder: pathlib.Path, dice: random.Random) -> bool:
    return any(folder.glob("checkpoints/*tmp*")) and dice.random() < 0.3


def _in_evaluation(folder: pathlib.Path, dice: random.Random) -> bool:
    return (folder / "data" / "test.npz").exists() and dice.random() < 0.003


def _in_results(folder: pathlib.Path, dice: random.Random) -> bool:
    return (folder / "evaluation.csv").exists() and dice.random() < 0.005


def _in_sweep(folder: pathlib.Path, dice: random.Random) -> bool:
    return bool(_runs(folder)) and dice.random() < (0.002 if _lines(folder) else 0.0002)


MOMENTS: dict[str, Callable[[pathlib.Path, random.Random], bool]] = {
    "set-up": _in_setup,
    "steps": _between_steps,
    "checkpoint": _in_checkpoint,
    "evaluation": _in_evaluation,
    "results": _in_results,
    "sweep": _in_sweep,
}


def same_bits(whole: pathlib.Path, other: pathlib.Path, kind: str) -> bool:
    """Parameters, metrics and evaluation, bit for bit."""
    runs = [(whole, other)] if kind == "run" else [(run, other / run.name) for run in _runs(whole)]
    for left, right in runs:
        first, second = (jax.tree.leaves(load_run(run).params) for run in (left, right))
        if not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
            return False
        metrics = [
            [
                {k: v for k, v in entry.items() if k != "steps_per_second"}
                for entry in read_metrics(run / "metrics.jsonl")
            ]
            for run in (left, right)
        ]
        if json.dumps(metrics[0]) != json.dumps(metrics[1]):
            return False
    if kind != "run":
        return _scores(whole) == _scores(other)
    made = {p.relative_to(whole) for p in whole.rglob("*") if p.suffix in (".md", ".png", ".h5ad", ".csv")}
    return (whole / "evaluation.csv").read_bytes() == (other / "evaluation.csv").read_bytes() and made == {
        p.relative_to(other) for p in other.rglob("*") if p.suffix in (".md", ".png", ".h5ad", ".csv")
    }


def _scores(folder: pathlib.Path) -> list[tuple[str, str]]:
    with (folder / "sweep.csv").open(newline="") as file:
        return sorted((row["folder"], row["validation_share"]) for row in csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))

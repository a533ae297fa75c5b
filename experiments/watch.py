"""A sweep, or any folder of runs, as it goes: how far each run is, its loss, its error, the best so far.

python experiments/watch.py --workdir=runs/simulated-sweep           again every five seconds, until Ctrl-C
python experiments/watch.py --workdir=runs/simulated-sweep --once
"""

import json
import pathlib
import sys
import time
from typing import Any, NamedTuple

from absl import flags

from pdae_jax.cli.command import Call, execute
from pdae_jax.cli.sweeps.points import RESULT_FILE
from pdae_jax.runs.files import read_json
from pdae_jax.runs.folder import CONFIG_FILE, METRICS_FILE

_SECONDS = 5.0
_IDLE = 60.0  # seconds without a line, after which a run that has not ended is shown as idle
_CLEAR = "\x1b[H\x1b[2J"


class Seen(NamedTuple):
    """One run, by its files."""

    name: str
    state: str
    step: int
    num_steps: int
    loss: float
    error: float  # the last on validation conditions; of a run that ended the score of its sweep
    note: str = ""


def define(values):
    flags.DEFINE_string("workdir", None, "folder of the sweep", required=True, flag_values=values)
    flags.DEFINE_bool("once", False, "print once", flag_values=values)
    flags.DEFINE_integer("rows", 30, "most runs that are shown; the others are counted", flag_values=values)


def main(asked, call):
    workdir = pathlib.Path(asked.workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"No folder {str(workdir)!r}. Pass the workdir of a sweep.")
    while True:
        text = board(look(workdir), asked.rows)
        print(text if asked.once else _CLEAR + text, flush=True)
        if asked.once:
            return
        time.sleep(_SECONDS)


def look(workdir: pathlib.Path) -> list[Seen]:
    """Look at all runs in a folder, and the points of a sweep that failed before they began one."""
    paths = sorted(workdir.iterdir())
    return [_look(path) for path in paths if (path / CONFIG_FILE).exists() or (path / RESULT_FILE).exists()]


def _look(path: pathlib.Path) -> Seen:
    if not (path / CONFIG_FILE).exists():
        result = read_json(path / RESULT_FILE)
        return Seen(path.name, result["state"], 0, 0, float("nan"), result["score"], result["error"])
    recipe = read_json(path / CONFIG_FILE)["identity"]["recipe"]
    num_steps = recipe["num_steps"] if recipe.get("stop_step") is None else recipe["stop_step"]
    step, loss, error, file = 0, float("nan"), float("nan"), path / METRICS_FILE
    for entry in _last_entries(file):
        step, loss = entry["step"], entry["total"]
        error = entry.get("validation_energy_distance", error)
    if (path / RESULT_FILE).exists():
        result = read_json(path / RESULT_FILE)
        return Seen(path.name, result["state"], step, num_steps, loss, result["score"], result["error"])
    if step >= num_steps:
        return Seen(path.name, "finished", step, num_steps, loss, float("nan"))
    idle = not file.exists() or time.time() - file.stat().st_mtime > _IDLE
    return Seen(path.name, "idle" if idle else "running", step, num_steps, loss, error)


def _last_entries(file: pathlib.Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 16384))
        lines = opened.read().decode(errors="replace").splitlines()
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:  # cut at the start, or being written
            continue
    return [entry for entry in entries if isinstance(entry, dict) and "step" in entry]


def board(runs: list[Seen], rows: int) -> str:
    """Write the runs as text: those that train first, then by error."""
    order = {"running": 0, "idle": 1, "finished": 2, "stopped": 3, "failed": 4}
    ranked = sorted(runs, key=lambda run: (order.get(run.state, 5), _last(run.error), run.name))
    counts = {state: sum(run.state == state for run in runs) for state in order}
    width = max([len(run.name) for run in ranked[:rows]], default=4)
    lines = [", ".join(f"{number} {state}" for state, number in counts.items() if number) or "no runs yet"]
    finished = [run for run in runs if run.state == "finished"]
    if finished:
        best = min(finished, key=lambda run: _last(run.error))
        lines.append(f"best so far: {best.name}, {best.error:.4f}")
    lines.append(f"\n{'run':{width}}  {'state':8}  {'steps':>13}  {'':20}  {'loss':>9}  {'error':>9}")
    for run in ranked[:rows]:
        share = min(run.step / max(run.num_steps, 1), 1.0)
        bar = "#" * round(20 * share)
        lines.append(
            f"{run.name:{width}}  {run.state:8}  {run.step:6d}/{run.num_steps:<6d}  {bar:20}  {run.loss:9.4g}  "
            f"{run.error:9.4g}  {run.note[:60]}".rstrip()
        )
    if len(ranked) > rows:
        lines.append(f"... and {len(ranked) - rows} more")
    return "\n".join(lines)


def _last(value: float) -> float:
    return value if value == value else float("inf")


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))

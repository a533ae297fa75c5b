"""Repeat a run from its folder alone, and compare: data, parameters, losses, evaluation.

python experiments/reproduce.py runs/simulated [--workdir=runs/simulated-again]

On the same machine with the same versions everything is the same bit for bit. Elsewhere rounding grows with the steps:
what differs in versions and device is printed, and the errors on test conditions (of a run that was not evaluated: on
validation conditions) must be the same but for 5 % of the control's. Exit status 1 if the run was not reproduced. A run
that went on from another (`fit(..., start_from=)`) is refused: its folder alone does not say what it began with.
"""

import json
import math
import pathlib
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from absl import app, flags

from pdae_jax import evaluate, load_ensemble, load_run
from pdae_jax.cli.command import Call, execute
from pdae_jax.evaluation.table import MODEL
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.reporting import results
from pdae_jax.runs import folder
from pdae_jax.runs.files import read_json
from pdae_jax.runs.store import load_data
from pdae_jax.training.ensemble import train_ensemble
from pdae_jax.training.load import Record, read_record
from pdae_jax.training.train import train_request

REST = "the folder of one run"
_CLOSE = 0.05  # of the control's energy distance, on another machine
_ROUNDING = 1e-5  # of it, on the same
_METRIC = "energy_distance"


def define(values: flags.FlagValues):
    flags.DEFINE_string("workdir", None, "for the repeated run; default a temporary one", flag_values=values)


def main(asked: flags.FlagValues, call: Call):
    if len(call.rest) != 1:
        raise app.UsageError(f"Pass {REST}: python experiments/reproduce.py runs/simulated")
    path = pathlib.Path(call.rest[0])
    with tempfile.TemporaryDirectory(prefix="pdae_jax-again-") as scratch:
        same = reproduce(path, pathlib.Path(asked.workdir or f"{scratch}/run"))
    print("reproduced" if same else "NOT reproduced")
    if not same:
        sys.exit(1)


def reproduce(path: pathlib.Path, workdir: pathlib.Path) -> bool:
    """Repeat the run of a folder in another, and tell whether it came out the same."""
    record = read_record(path)
    if "start" in record.identity:
        start, parent = record.identity["start"], read_json(path / folder.CONFIG_FILE)["config"]["start_from"]
        raise app.UsageError(
            f"{path} went on from step {start['step']} of the run in {parent} (config {start['hash'][:12]}). Its "
            f"folder alone does not repeat it: reproduce that run up to this step, and pass it to fit(start_from=)."
        )
    print(f"{path}: config {folder.config_hash(record.identity)[:12]}")
    other = differences(read_json(path / folder.ENVIRONMENT_FILE), folder.environment())
    for name, (then, now) in other.items():
        print(f"  {name}: {then} then, {now} now")
    first, again = load(path, record), train(record, workdir)
    worst = max(
        float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
        for a, b in zip(leaves(first), leaves(again), strict=True)
    )
    print(f"parameters: {'the same bits' if worst == 0 else f'largest difference {worst:.3g}'}")
    same = worst == 0 and scores_of_training(first) == scores_of_training(again)
    print(f"losses and errors while training: {'the same' if same else 'not the same bits'}")
    if (path / folder.TEST_FILE).exists() and (path / results.EVALUATION_FILE).exists():
        judged, share = "test", difference_on_test(path, again)
        limit = _CLOSE if other else _ROUNDING
    else:
        judged, share = "validation", difference_on_validation(first, again)
        limit = _CLOSE
    if math.isnan(share):  # nothing was judged
        return same
    print(f"errors on {judged} conditions: largest difference {share:.2g} of the control's")
    return share < limit and (same or bool(other))


def train(record: Record, workdir: pathlib.Path) -> Fitted | Ensemble:
    """Train the same fit anew."""
    request = record.request(workdir)
    if "num_replicas" in record.identity:
        return train_ensemble(request, record.identity["num_replicas"], progress=True)
    return train_request(request, progress=True)


def load(path: pathlib.Path, record: Record) -> Fitted | Ensemble:
    return load_ensemble(path) if "num_replicas" in record.identity else load_run(path)


def leaves(fitted: Fitted | Ensemble) -> list[Any]:
    return jax.tree.leaves([member.params for member in fitted.members])


def scores_of_training(fitted: Fitted | Ensemble) -> str:
    history = fitted.members[0].history
    return json.dumps([{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in history])


def difference_on_validation(first: Fitted | Ensemble, again: Fitted | Ensemble) -> float:
    """Find the largest difference of errors on validation conditions, in units of the control's; NaN without any."""
    pairs = [
        (then, member.validation_errors[name])
        for before, member in zip(first.members, again.members, strict=True)
        for name, then in before.validation_errors.items()
    ]
    return max((abs(then["pdae"] - now["pdae"]) / then["control"] for then, now in pairs), default=math.nan)


def difference_on_test(path: pathlib.Path, again: Fitted | Ensemble) -> float:
    """Find the largest difference of errors on the test conditions, as a fraction of the control's; NaN without any."""
    before, test = results.read_evaluation(path), load_data(path / folder.TEST_FILE)
    options = read_json(path / folder.CONFIG_FILE)["config"].get("evaluation", {})
    options = {name: options[name] for name in ("num_samples", "source") if name in options}
    now = evaluate(again, test, metrics=[_METRIC], baselines=["control"], progress=False, **options)

    def values(table: Any, method: str) -> Any:
        own = table[(table["split"] == "test") & (table["method"] == method) & (table["metric"] == _METRIC)]
        return own.set_index("condition")["value"]

    then, found, control = values(before, MODEL), values(now, MODEL), values(now, "control")
    return float(((found - then).abs() / control).fillna(np.inf).max()) if len(then) else math.nan


def differences(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find what differs between two environments, by its name."""
    flat = [{**{k: v for k, v in each.items() if k != "packages"}, **each.get("packages", {})} for each in (then, now)]
    names = sorted(flat[0].keys() | flat[1].keys())
    return {n: (flat[0].get(n), flat[1].get(n)) for n in names if flat[0].get(n) != flat[1].get(n)}


if __name__ == "__main__":
    sys.exit(execute(sys.modules[__name__], Call(("python", sys.argv[0]), tuple(sys.argv[1:]))))

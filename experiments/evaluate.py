"""Evaluate a run folder again: evaluation.csv, predictions.h5ad, figures and report, from the folder alone.

python experiments/evaluate.py --workdir=runs/simulated
python experiments/evaluate.py --workdir=runs/simulated --num_samples=5000 --source=all

Without options the numbers are those of the run.
"""

import json
import pathlib

from absl import app, flags, logging

from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results
from pdae_jax.runs import folder

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "cells predicted per condition; default as in the run")
SOURCE = flags.DEFINE_string("source", None, "control, nearest, all, or a training condition; default as in the run")
DEVICES = flags.DEFINE_integer("devices", None, "that share the conditions; default one")


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    workdir = pathlib.Path(WORKDIR.value)
    given = {"num_samples": NUM_SAMPLES.value, "source": SOURCE.value, "devices": DEVICES.value}
    changes = {name: value for name, value in given.items() if value is not None}
    print(results.write_results(workdir, **{**recorded_options(workdir), **changes}))
    print(f"\nRewritten: {workdir / results.EVALUATION_FILE} and {workdir / 'report.md'}")


def recorded_options(workdir: pathlib.Path) -> dict:
    """The options of `evaluate` that the run was given."""
    file = workdir / folder.CONFIG_FILE
    if not file.exists():
        raise FileNotFoundError(f"No run in {str(workdir)!r}: it has no {folder.CONFIG_FILE}. Pass --workdir of a run.")
    return json.loads(file.read_text())["config"].get("evaluation", {})


if __name__ == "__main__":
    app.run(main)

"""Evaluate a run folder again: evaluation.csv, predictions.h5ad, figures and report, from the folder alone.

pdae-jax evaluate --workdir=runs/simulated
pdae-jax evaluate --workdir=runs/simulated --num_samples=5000 --source=all
pdae-jax evaluate --workdir=runs/simulated --figures --format=pdf --width=178

Without options the numbers are those of the run.
"""

import json
import pathlib

from absl import flags

from pdae_jax.cli.command import Call
from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import results
from pdae_jax.runs import folder


def define(values: flags.FlagValues) -> None:
    """Add the flags of the command."""
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=values)
    flags.DEFINE_integer(
        "num_samples", None, "cells predicted per condition; default as in the run", flag_values=values
    )
    flags.DEFINE_string(
        "source", None, "control, nearest, all, or a training condition; default as in the run", flag_values=values
    )
    flags.DEFINE_integer("devices", None, "that share the conditions; default one", flag_values=values)
    flags.DEFINE_boolean("figures", False, "draw the figures and the report again, nothing else", flag_values=values)
    flags.DEFINE_multi_enum(
        "format", [], ["pdf", "svg", "eps", "tif"], "with --figures: files beside .png", flag_values=values
    )
    flags.DEFINE_float("width", None, "with --figures: in mm; default 85, a column of a journal", flag_values=values)
    flags.DEFINE_integer("dpi", 300, "with --figures: points per inch", flag_values=values)
    flags.DEFINE_string("store", None, "folder of the cells, where it has been moved", flag_values=values)


def main(asked: flags.FlagValues, call: Call) -> None:
    """Write the results again."""
    cache_compilations()
    workdir = pathlib.Path(asked.workdir)
    if asked.figures:
        form = {"formats": asked.format, "width": asked.width, "dpi": asked.dpi}
        for caption, path in results.draw_figures(workdir, **form).items():
            print(f"{workdir / path}: {caption}")
        print(results.render(workdir))
        return
    given = {"num_samples": asked.num_samples, "source": asked.source, "devices": asked.devices}
    given["store"] = asked.store
    changes = {name: value for name, value in given.items() if value is not None}
    print(results.write_results(workdir, **{**recorded_options(workdir), **changes}))
    print(f"\nRewritten: {workdir / results.EVALUATION_FILE} and {workdir / 'report.md'}")


def recorded_options(workdir: pathlib.Path) -> dict:
    """Read the options of `evaluate` that the run was given."""
    file = workdir / folder.CONFIG_FILE
    if not file.exists():
        raise FileNotFoundError(f"No run in {str(workdir)!r}: it has no {folder.CONFIG_FILE}. Pass --workdir of a run.")
    return json.loads(file.read_text())["config"].get("evaluation", {})

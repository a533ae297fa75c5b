"""Train every point of a sweep, and rank the points on the validation conditions. Test conditions choose nothing.

python experiments/sweep.py --config=experiments/configs/simulated.py --workdir=runs/simulated-sweep
python experiments/sweep.py --config=experiments/configs/simulated.py --config.fit.num_steps=2000

The points are what get_sweep() beside get_config() gives: flat dicts such as {"fit.latent_dim": 4, "seed": 1}.
Each has a folder of its own under --workdir. The same command again goes on where it was broken off.
"""

import copy
import importlib.util
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from pdae_jax import build, fit
from pdae_jax.compiled import cache_compilations

CONFIG = config_flags.DEFINE_config_file("config", None, "what to vary: path[:arg]")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep; default runs/<name of the config>-sweep")
flags.mark_flag_as_required("config")

SCORE = "validation_share"  # mean over validation conditions of energy distance / that of the control
TABLE_FILE = "sweep.csv"


def main(_):
    logging.set_verbosity(logging.WARNING)
    cache_compilations()
    source = config_flags.get_config_filename(flags.FLAGS["config"])  # path[:arg]
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    path, _, arg = source.partition(":")
    path = pathlib.Path(path)
    workdir = pathlib.Path(WORKDIR.value or f"runs/{path.stem}{'-' if arg else ''}{arg}-sweep")
    if not CONFIG.value.split.validation:
        raise ValueError("The config has no validation conditions to rank points by; name some in config.split.")
    points, rows = load_points(path), []
    for number, point in enumerate(points, 1):
        folder = workdir / folder_name(point)
        print(f"[{number}/{len(points)}] {folder}")
        command = command_of(source, {**overrides, **point}, folder)
        score = run_point(configure(CONFIG.value, point), folder, {"file": source, "command": command})
        rows.append({**point, SCORE: score, "command": command})
        table = write_table(workdir / TABLE_FILE, rows)
    print(f"\n{show(table.drop(columns='command'))}\n")
    settings = [name for name in table if name not in ("seed", SCORE, "command")]
    if settings and "seed" in table:
        means = table.groupby(settings, dropna=False)[SCORE].agg(["mean", "count"]).reset_index().sort_values("mean")
        print(f"Over seeds:\n{show(means)}\n")
    print(f"{SCORE}: mean energy distance on the validation conditions, as a fraction of the control's.")
    print(f"Table, with the command that evaluates each point: {workdir / TABLE_FILE}")


def load_points(path: pathlib.Path) -> list[dict[str, Any]]:
    """The points that a config file lists."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "the flag has read this file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise AttributeError(f"{path} has no get_sweep(). Add one that yields flat dicts, {{'fit.latent_dim': 4}}.")
    points = [dict(point) for point in module.get_sweep()]
    if not points:
        raise ValueError(f"get_sweep() of {path} yields no points.")
    return points


def configure(config: ConfigDict, point: dict[str, Any]) -> ConfigDict:
    """The config of a point; the one given stays as it is."""
    config = copy.deepcopy(config)  # ConfigDict(config) would share the nested sections
    config.update_from_flattened_dict(point)
    return config


def run_point(config: ConfigDict, workdir: pathlib.Path, provenance: dict[str, Any]) -> float:
    """Train a point, or read it back if it is finished; its mean share on the validation conditions."""
    experiment = build.experiment(config)
    fitted = fit(
        experiment.train,
        key=experiment.key,
        validation=experiment.validation,
        source=experiment.source,
        recipe=experiment.recipe,
        workdir=workdir,
        progress=True,
        config={**provenance, **config.to_dict()},
    )
    return float(np.mean([error["pdae"] / error["control"] for error in fitted.validation_errors.values()]))


def write_table(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """``sweep.csv``, the best point first."""
    table = pd.DataFrame(rows).sort_values(SCORE, kind="stable")
    temporary = path.with_name(f".{path.name}.partial")
    table.to_csv(temporary, index=False)
    temporary.replace(path)
    return table


def show(table: pd.DataFrame) -> str:
    """A table for the terminal."""
    return table.to_string(index=False, float_format="{:.4f}".format)


def folder_name(point: dict[str, Any]) -> str:
    """``fit.latent_dim=4,seed=1``"""
    return ",".join(f"{name}={value}" for name, value in point.items()).replace("/", "_").replace(" ", "")


def command_of(source: str, values: dict[str, Any], workdir: pathlib.Path) -> str:
    """What trains and evaluates a point alone, in its folder."""
    changes = [f"--config.{name}={value}" for name, value in values.items()]
    return shlex.join(["python", "experiments/run.py", f"--config={source}", *changes, f"--workdir={workdir}"])


if __name__ == "__main__":
    app.run(main)

"""What a sweep is asked for, and what cannot go together."""

import pathlib
from typing import Any, NamedTuple

from absl import flags

from pdae_jax.cli.command import Call
from pdae_jax.cli.sweeps.points import configure


class Sweep(NamedTuple):
    """Hold what was asked for."""

    asked: flags.FlagValues
    call: Call
    workdir: pathlib.Path

    @property
    def source(self) -> str:
        """Name the config, path[:arg]."""
        return self.call.source

    @property
    def config(self) -> Any:
        """Return what points change: each trains one fit, and the winner as many replicas as the config says."""
        return configure(self.asked.config, {"replicas": 1})


def define(values: flags.FlagValues) -> None:
    """Add the flags of the command."""
    of: Any = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "folder of the sweep; default runs/<name of the config>-sweep", **of)
    launchers_, searches_ = ["inline", "population", "ray", "slurm"], ["grid", "random", "optuna", "asha", "pbt"]
    flags.DEFINE_enum("launcher", "inline", launchers_, "where points are trained", **of)
    flags.DEFINE_enum("search", "grid", searches_, "which points are tried; asha and pbt: by Ray Tune", **of)
    flags.DEFINE_integer("points", 32, "number of points, of any search but a grid", lower_bound=1, **of)
    together = "points asked for together; default 1 inline, 32 of a population or of optuna, else all; of asha as many"
    flags.DEFINE_integer("at_once", None, f"{together} as cores", lower_bound=1, **of)
    flags.DEFINE_list("objectives", ["error"], "of optuna: error, seconds, or both", **of)
    flags.DEFINE_integer("search_seed", 0, "of any search but a grid", **of)
    winner = "train the best settings once more and evaluate them on the test conditions"
    flags.DEFINE_bool("winner", True, winner, **of)
    flags.DEFINE_bool("dry_run", False, "of slurm: write the scripts, submit nothing", **of)
    flags.DEFINE_string("slurm_partition", None, "partition of Slurm jobs", **of)
    flags.DEFINE_integer("slurm_minutes", 60, "time of a Slurm job", lower_bound=1, **of)
    flags.DEFINE_integer("slurm_cpus", 4, "cores of a Slurm job", lower_bound=1, **of)
    flags.DEFINE_integer("slurm_gpus", 1, "GPUs of a Slurm job", lower_bound=0, **of)
    flags.DEFINE_enum("slurm_cluster", "slurm", ["slurm", "local"], "where Slurm jobs run; local: here", **of)
    flags.DEFINE_string("point", None, "of a launcher: train this point only, JSON", **of)


def check(sweep: Sweep) -> None:
    """Refuse what cannot go together, ``ValueError``."""
    if sweep.asked.dry_run and (
        sweep.asked.launcher != "slurm" or sweep.asked.search == "optuna" or sweep.asked.slurm_cluster == "local"
    ):
        raise ValueError("--dry_run writes the scripts of --launcher=slurm for a cluster, of a grid or random search.")
    if sweep.asked.launcher == "population" and "seconds" in sweep.asked.objectives:
        raise ValueError("Members of a population have no time of their own. Pass --objectives=error.")
    _check_tune(sweep)
    if not _has_validation(sweep):
        raise ValueError("The config has no validation conditions to rank points by; name some in config.split.")


def _check_tune(sweep: Sweep) -> None:
    """Refuse what Ray Tune cannot do."""
    if sweep.asked.search in ("asha", "pbt") and sweep.asked.launcher != "ray":
        raise ValueError(f"--search={sweep.asked.search} is by Ray Tune. Pass --launcher=ray with it.")
    if sweep.asked.search == "pbt" and sweep.asked.at_once:
        raise ValueError("All members of --search=pbt take turns on the cores there are. Leave out --at_once.")


def _has_validation(sweep: Sweep) -> bool:
    split = sweep.asked.config.split
    return any(split.get(name) for name in ("validation", "validation_fraction", "protocol", "column"))

"""Train and evaluate what a config says, in one run folder. The same command on an existing folder resumes.

A file of your own:   pdae-jax run --config.data.path=my.h5ad --config.data.condition=perturbation
Another config:       pdae-jax run --config=simulated, or --config=my_config.py:arg [--workdir=DIR] [--config.seed=1]

With --dry_run it prints what was read and what would be held out, and stops: nothing is trained or written.

Several devices share the steps with --devices=4. So do those of several processes, each started with

    --coordinator=HOST:PORT --num_processes=2 --process_id=0

or, by Slurm, Open MPI, Kubernetes or on TPU pods, with --coordinator=auto; the first writes the folder and evaluates.
"""

import functools
import pathlib

import jax
from absl import app, flags

from pdae_jax import build
from pdae_jax.cli.command import Call
from pdae_jax.cli.reading import read_data, reading
from pdae_jax.compiled import cache_compilations
from pdae_jax.reporting import overview, results
from pdae_jax.training.ensemble import fit_ensemble
from pdae_jax.training.fit import fit

CONFIG = "anndata"  # where the command line has none: a file of one's own


def define(values: flags.FlagValues) -> None:
    """Add the flags of the command."""
    flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the config>", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print what was read and would be held out, and stop", flag_values=values)
    flags.DEFINE_integer(
        "devices", None, "that share the steps; default one, of several processes all", flag_values=values
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes, or auto", flag_values=values)
    flags.DEFINE_integer(
        "num_processes", None, "started for this run, each with another process_id", flag_values=values
    )
    flags.DEFINE_integer("process_id", None, "of this process, from 0", flag_values=values)


def main(asked: flags.FlagValues, call: Call) -> None:
    """Read, train, evaluate and report, or with --dry_run only say what was read."""
    devices = join_processes(asked)
    cache_compilations()
    workdir = pathlib.Path(asked.workdir or default_workdir(call.source))
    if asked.dry_run:
        with reading(asked.config):
            text = build.dry_run(asked.config)
        print(text)
        return
    experiment = read_data(asked.config)
    first = jax.process_index() == 0
    if first:
        held_out = experiment.test.num_conditions if experiment.test else "no"
        print(f"{experiment.train}\n{held_out} held-out conditions, run folder {workdir}")
        for line in overview.odd_doses({"train": experiment.train}):
            print(line)
    train = functools.partial(fit, devices=devices)
    if asked.config.replicas > 1:
        if devices is not None:
            raise app.UsageError("config.replicas above 1 share no devices. Leave out --devices and --coordinator.")
        train = functools.partial(fit_ensemble, num_replicas=asked.config.replicas)
    train(
        experiment.train,
        key=experiment.key,
        validation=experiment.validation,
        source=experiment.source,
        recipe=experiment.recipe,
        workdir=workdir,
        progress=True,
        # with the sources that a protocol found: who evaluates the folder again has them from there
        config=call.record | asked.config.to_dict() | {"evaluation": experiment.evaluation},
    )
    if asked.coordinator:
        jax.distributed.shutdown()  # the others need not wait until the first has evaluated
    if not first:
        return
    results.save_test(workdir, experiment.test)
    if experiment.truth is not None:
        results.save_truth(workdir, experiment.truth)
    own = devices and min(devices, jax.local_device_count())  # those of this process share the evaluation too
    print(results.write_results(workdir, command=call.text, devices=own, **experiment.evaluation))
    print(f"\nRun folder: {workdir}  (start with {workdir / 'report.md'})")


def join_processes(asked: flags.FlagValues) -> int | None:
    """Find the other processes, where there are any, and return how many devices share the fit."""
    if asked.coordinator is None:
        return asked.devices
    address = None if asked.coordinator == "auto" else asked.coordinator
    jax.distributed.initialize(address, asked.num_processes, asked.process_id)
    return asked.devices or jax.device_count()


def default_workdir(source: str) -> str:
    """Name the run folder: ``runs/simulated``, and ``runs/simulated-plane`` for ``configs/simulated.py:plane``."""
    path, _, arg = source.partition(":")
    return f"runs/{pathlib.Path(path).stem}" + (f"-{arg}" if arg else "")

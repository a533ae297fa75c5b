"""Train and evaluate what a config says, in one run folder. The same command on an existing folder resumes.

python experiments/run.py --config=experiments/configs/simulated.py [--workdir=DIR] [--config.fit.num_steps=500]

With --dry_run it prints what was read and what would be held out, and stops: nothing is trained or written.

Several devices share the steps with --devices=4. So do those of several processes, each started with

    --coordinator=HOST:PORT --num_processes=2 --process_id=0

or, by Slurm, Open MPI, Kubernetes or on TPU pods, with --coordinator=auto; the first writes the folder and evaluates.
"""

import functools
import pathlib
import shlex
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import dry_run
from pdae_jax import build, fit, fit_ensemble
from pdae_jax.compiled import cache_compilations
from pdae_jax.evaluation import identification
from pdae_jax.reporting import results
from pdae_jax.runs import folder

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/simulated.py", "what to run: path[:arg]")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the config>")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print what was read and would be held out, and stop")
DEVICES = flags.DEFINE_integer("devices", None, "that share the steps; default one, of several processes all")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes, or auto")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "started for this run, each with another process_id")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "of this process, from 0")


def main(_):
    logging.set_verbosity(logging.WARNING)  # the bar, the table and the folder are what people read
    devices = join_processes()
    cache_compilations()
    source = config_flags.get_config_filename(flags.FLAGS["config"])  # path[:arg]
    workdir = pathlib.Path(WORKDIR.value or default_workdir(source))
    experiment = build.experiment(CONFIG.value)
    if DRY_RUN.value:
        print(dry_run.describe(experiment))
        return
    first = jax.process_index() == 0
    if first:
        held_out = experiment.test.num_conditions if experiment.test else "no"
        print(f"{experiment.train}\n{held_out} held-out conditions, run folder {workdir}")
    command = shlex.join(["python", *sys.argv])
    train = functools.partial(fit, devices=devices)
    if CONFIG.value.replicas > 1:
        if devices is not None:
            raise app.UsageError("config.replicas above 1 share no devices. Leave out --devices and --coordinator.")
        train = functools.partial(fit_ensemble, num_replicas=CONFIG.value.replicas)
    train(
        experiment.train,
        key=experiment.key,
        validation=experiment.validation,
        source=experiment.source,
        recipe=experiment.recipe,
        workdir=workdir,
        progress=True,
        # with the sources that a protocol found: who evaluates the folder again has them from there
        config={"file": source, "command": command, **CONFIG.value.to_dict(), "evaluation": experiment.evaluation},
    )
    if COORDINATOR.value:
        jax.distributed.shutdown()  # the others need not wait until the first has evaluated
    if not first:
        return
    results.save_test(workdir, experiment.test)
    if experiment.truth is not None:
        identification.save_truth(workdir / folder.TRUTH_FILE, experiment.truth)
    own = devices and min(devices, jax.local_device_count())  # those of this process share the evaluation too
    print(results.write_results(workdir, command=command, devices=own, **experiment.evaluation))
    print(f"\nRun folder: {workdir}  (start with {workdir / 'report.md'})")


def join_processes() -> int | None:
    """Find the other processes, where there are any; how many devices share the fit."""
    if COORDINATOR.value is None:
        return DEVICES.value
    address = None if COORDINATOR.value == "auto" else COORDINATOR.value
    jax.distributed.initialize(address, NUM_PROCESSES.value, PROCESS_ID.value)
    return DEVICES.value or jax.device_count()


def default_workdir(source: str) -> str:
    """``runs/simulated`` for ``configs/simulated.py``, ``runs/simulated-plane`` for ``configs/simulated.py:plane``."""
    path, _, arg = source.partition(":")
    return f"runs/{pathlib.Path(path).stem}" + (f"-{arg}" if arg else "")


if __name__ == "__main__":
    app.run(main)

"""Two processes that share a fit: the numbers of one, one folder, and runs that go on with other numbers of devices."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pdae_jax

pytestmark = pytest.mark.slow

SMALL = {
    "latent_dim": 2,
    "num_steps": 20,
    "log_every": 5,
    "eval_every": 5,
    "checkpoint_every": 20,
    "hidden": (8,),
    "cells_per_source": 8,
    "cells_per_target": 8,
    "components": 2,
}
PROGRAM = """
    import json, pathlib, sys
    import jax
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
    from tests.training import test_processes

    assert jax.device_count() == 4 and jax.local_device_count() == 2
    fitted = test_processes.fit(devices=4)
    print(json.dumps(test_processes.numbers(fitted)), flush=True)
    told = test_processes.ToldToStop(5) if jax.process_index() == 0 else False
    test_processes.fit(devices=4, workdir=pathlib.Path(sys.argv[3]), progress=told)
"""


class ToldToStop:
    """The process is told to stop, as a scheduler does."""

    def __init__(self, step):
        self._step = step

    def update(self, step, num_steps, loss):
        if step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        pass


def fit(**options):
    labels = ["p0", "p1", "p2", "p0+p1", "p0+p2", "p1+p2", "p0:2+p1", "p0+p1+p2", "p0:2", "p1:2"]
    data = pdae_jax.simulate(
        jax.random.key(0), latent_dim=2, observed_dim=3, num_perturbations=3, labels=labels, cells_per_condition=80
    ).data
    train, validation = pdae_jax.hold_out(data, ["p1+p2", "p0+p2", "p0+p1+p2"])  # no multiple of the devices
    return pdae_jax.fit(train, key=jax.random.key(5), validation=validation, **SMALL, **options)


def numbers(fitted):
    errors = [each["pdae"] for each in fitted.validation_errors.values()]
    return {"params": np.asarray(ravel_pytree(fitted.params)[0]).tolist(), "errors": errors}


def run_two(folder):
    """Two processes with two devices each: status, output and errors of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), address, str(number), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def is_close(found, expected):
    found, expected = (np.concatenate([each["params"], each["errors"]]) for each in (found, expected))
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def steps_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.usefixtures("plain_signals")
def test_two_processes_share_a_fit_and_take_it_over_and_hand_it_on(tmp_path):
    alone, run = numbers(fit()), tmp_path / "run"
    with pytest.raises(SystemExit):
        fit(workdir=run, progress=ToldToStop(0))
    assert steps_of(run) == [5]
    printed = []
    for status, output, error in run_two(run):
        assert status == 128 + signal.SIGTERM, error  # both, though one was told
        printed.append(json.loads(output.splitlines()[-1]))
        is_close(printed[-1], alone)
    assert printed[0] == printed[1]
    assert steps_of(run) == [5, 10]
    is_close(numbers(fit(workdir=run)), alone)

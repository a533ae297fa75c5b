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
}
PROGRAM = """
    import json, pathlib, sys
    import jax
    jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
    from tests.training import test_processes
    import pdae_jax

    assert jax.device_count() == 4 and jax.local_device_count() == 2
    folder, stop = pathlib.Path(sys.argv[3]), sys.argv[4] == "stop" and jax.process_index() == 0
    progress = test_processes.ToldToStop() if stop else False
    fitted = test_processes.fit(devices=4, workdir=folder, progress=progress)
    print(json.dumps({**test_processes.numbers(fitted), "workdir": fitted.workdir is not None}))
"""


class ToldToStop:
    """The process is told to stop, as a scheduler does."""

    def update(self, step, num_steps, loss):
        if step == 10:
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


def processes(folder, *arguments):
    """Two of them with two devices each; status and what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), address, str(number), str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def is_close(found, expected):
    found, expected = (np.concatenate([each["params"], each["errors"]]) for each in (found, expected))
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def alone():
    return numbers(fit())


def test_two_processes_stop_together_and_one_goes_on(alone, tmp_path):
    for status, _, error in processes(tmp_path / "run", "stop"):
        assert status == 128 + signal.SIGTERM, error
    steps = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert steps == [10]  # written once, by the first
    is_close(numbers(fit(workdir=tmp_path / "run")), alone)


def test_one_stops_and_two_processes_go_on(alone, tmp_path):
    with pytest.raises(SystemExit):
        fit(workdir=tmp_path / "run", progress=ToldToStop())
    found = []
    for status, output, error in processes(tmp_path / "run", "go on"):
        assert status == 0, error
        found.append(json.loads(output.splitlines()[-1]))
        is_close(found[-1], alone)
    assert found[0] == {**found[1], "workdir": True} and not found[1]["workdir"]
    is_close(numbers(pdae_jax.load_run(tmp_path / "run")), {**alone, "errors": []} | {"errors": found[0]["errors"]})

"""Several devices: the numbers of one, and a run that goes on with another number of them."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from pdae_jax.training.devices import local_devices, make_devices, shared_by

pytestmark = pytest.mark.slow

PROGRAM = """
    import json, pathlib, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.flatten_util import ravel_pytree
    import pdae_jax

    labels = ["p0", "p1", "p2", "p0+p1", "p0+p2", "p1+p2", "p0:2+p1", "p0+p1+p2"]
    data = pdae_jax.simulate(
        jax.random.key(0), latent_dim=2, observed_dim=3, num_perturbations=3, labels=labels, cells_per_condition=80
    ).data
    train, validation = pdae_jax.hold_out(data, ["p1+p2"])
    small = {"latent_dim": 2, "num_steps": 20, "log_every": 5, "eval_every": 5, "checkpoint_every": 10, "hidden": (8,),
             "cells_per_source": 8, "cells_per_target": 8}
    options = {"key": jax.random.key(5), "validation": validation, **small}

    class Killed(Exception):
        pass

    class Kills:
        def update(self, step, num_steps, loss):
            if step == 15:
                raise Killed
        def close(self):
            pass

    def distance(fitted, other):
        left, right = (ravel_pytree(each.params)[0] for each in (fitted, other))
        return float(np.linalg.norm(left - right) / np.linalg.norm(right))

    one = pdae_jax.fit(train, **options)
    found = {"devices": jax.local_device_count()}
    folder = pathlib.Path(sys.argv[1])
    try:
        pdae_jax.fit(train, devices=8, workdir=folder, progress=Kills(), **options)
    except Killed:
        pass
    resumed = pdae_jax.fit(train, devices=2, workdir=folder, **options)
    found["resumed"] = distance(resumed, one)
    found["loaded"] = distance(pdae_jax.load_run(folder), one)
    used = {}

    def evaluated(number):
        used[number] = set()

        def probe(key, train, label, num_samples, **_):  # a method that predicts control cells, and says where it is
            used[number] |= {device.id for device in jnp.zeros(()).devices()}
            return train.cells(train.control)[:num_samples]

        return pdae_jax.evaluate(
            resumed, validation, splits=["test", "train"], most_in_sample=3, baselines=[], methods={"probe": probe},
            metrics=["energy_distance"], num_samples=50, devices=number, progress=False,
        )

    tables = evaluated(None), evaluated(2)
    words, numbers = ([table.select_dtypes(**{how: "number"}) for table in tables] for how in ("exclude", "include"))
    close = np.allclose(*numbers, rtol=1e-4, atol=1e-6, equal_nan=True)
    found["same table"] = bool(words[0].equals(words[1]) and close)
    found["used"] = {str(number): len(devices) for number, devices in used.items()}
    settings = [{"learning_rate": rate} for rate in np.geomspace(1e-3, 1e-2, 4).tolist()]

    def together(**more):
        more |= {"at_once": 8, "workdir": folder.parent / "members", **options}
        return pdae_jax.fit_population(train, settings, **more)

    class KillsLater(Kills):
        calls = 0
        def update(self, step, num_steps, loss):
            self.calls += 1
            if self.calls == 4:
                raise Killed

    try:
        together(progress=KillsLater())
    except Killed:
        pass
    # models are bound to none of the devices that trained them
    elsewhere = jax.device_put(np.float32(1.0), jax.devices()[5])
    for model in (resumed, together().members[-1]):
        jax.tree.map(lambda leaf: leaf + elsewhere, model.params)
    found["members"] = [distance(member, pdae_jax.fit(train, **options, **setting))
                        for member, setting in list(zip(together().members, settings))[::3]]
    print(json.dumps(found))
"""


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8 and found["same table"]
    assert found["used"]["None"] == 1 and found["used"]["2"] == 2
    for name in ("resumed", "loaded"):
        assert found[name] < 2e-3, found
    assert max(found["members"]) < 2e-3, found


def test_devices_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"devices=3, but a batch has 8 targets.*num_targets"):
        shared_by(3, 8, False)
    with pytest.raises(ValueError, match="in files"):
        shared_by(2, 8, True)
    with pytest.raises(ValueError, match=r"devices=4096, but JAX has \d+ of kind .* Pass 1 to \d+\."):
        make_devices(4096)
    assert shared_by(1, 7, True) is None
    assert make_devices(1).number == 1
    with pytest.raises(ValueError, match=r"devices=4096, but this process has \d+ of kind .* Pass 1 to \d+\."):
        local_devices(4096)

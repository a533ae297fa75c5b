"""The installed package works from an empty folder: a tiny fit, kept, loaded again, predicted and evaluated."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import jax
import pandas as pd

import pdae_jax
from pdae_jax.cli.main import main

assert not list(Path.cwd().iterdir()), "run this from an empty folder"
where = resources.files("pdae_jax")
assert "site-packages" in str(where), f"this is not the installed package: {where}"
assert (where / "py.typed").is_file()

world = pdae_jax.simulate(
    jax.random.key(0),
    latent_dim=2,
    observed_dim=4,
    num_perturbations=2,
    labels=("p0", "p1", "p0+p1"),
    cells_per_condition=100,
)
train, test = pdae_jax.hold_out(world.data, conditions=["p0+p1"])
steps = {"num_steps": 20, "log_every": 10, "eval_every": 10, "checkpoint_every": 10, "hidden": (8,)}
pdae_jax.fit(train, key=jax.random.key(1), workdir="run", progress=False, **steps)
fitted = pdae_jax.load_run("run")
prediction = pdae_jax.predict(fitted, "p0+p1", key=jax.random.key(2), num_samples=50)
table = pdae_jax.evaluate(fitted, test, num_samples=50, progress=False)
assert prediction.samples.shape == (50, 4) and set(table["method"]) >= {"pdae", "ridge", "oracle_half"}
frame = pd.DataFrame(world.data.x, columns=pd.Index(world.data.features))
frame.assign(condition=[world.data.conditions[row] for row in world.data.condition_index]).to_csv("my.csv", index=False)
assert main(["run", "--config.data.path=my.csv", "--dry_run"]) == 0
assert main(["check", "--config=simulated"]) == 0
script = Path(sys.executable).with_name("pdae-jax")
assert "predict" in subprocess.run([script, "--help"], check=True, capture_output=True, text=True).stdout
print(f"{where}: {prediction.verdict.summary()}")

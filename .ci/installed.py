"""The installed package works from an empty folder: a tiny fit, kept, loaded again, predicted and evaluated."""

from importlib import resources
from pathlib import Path

import jax

import pdae_jax

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
print(f"{where}: {prediction.verdict.summary()}")

"""Time of one training step: ours, and the published loss in eager PyTorch; same nets, same batch, one run.

    make bench                                              # all settings, batch 128
    python experiments/benchmarks/step_time.py --settings=10-d --batch_size=256

``torch`` decodes every pair of rows, as published; ``torch_grouped`` decodes once per distinct label, the same loss;
``grouped`` is that in JAX, value and gradient equal to rounding. So ``grouping`` (torch over torch_grouped) is owed to
the algebra, which is anybody's, and ``compiled`` (torch_grouped over grouped) to the compiler. Rounds of the three are
interleaved, and the fastest of each counts.
``stratified`` is the step that `fit` takes: as many source and target rows, but drawn by condition on the device, which
keeps the distinct labels few; every law scored by itself, contrast and likelihood included. For 1,000 genes it is
timed with 8 targets of 16 rows and with 16 of 8: time goes with the decodes, targets x source rows.
"""

import csv
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments.benchmarks.torch_reference import SETTINGS, Setting, time_torch_step
from pdae_jax import kernels, losses
from pdae_jax.model.model import Model, make_model
from pdae_jax.training import objective
from pdae_jax.training.defaults import ON_SURFACE
from pdae_jax.training.step import Settings, init_state, make_train_step, start_shapes
from pdae_jax.view.sampler import DeviceData, make_sampler

CHOSEN = flags.DEFINE_list("settings", list(SETTINGS), "settings to time")
BATCH = flags.DEFINE_integer("batch_size", 128, "rows of a batch")
OUT = flags.DEFINE_string("out", "runs/bench/step_time.csv", "table")

NUM_LABELS = {"2-d": 4, "10-d": 9, "norman": 16}  # distinct labels in a batch of rows
NUM_SOURCES = {"2-d": 4, "10-d": 8, "norman": 8}
NUM_TARGETS = {"2-d": (4,), "10-d": (8,), "norman": (8, 16)}  # of stratified batches
CELLS_PER_CONDITION = 500
ROUNDS = 2


def random_data(setting: Setting, num_labels: int) -> DeviceData:
    """Standard normal cells with random multi-hot labels: the time does not depend on the values."""
    rng = np.random.default_rng(0)
    number = num_labels * CELLS_PER_CONDITION
    labels = (rng.random((num_labels, setting.num_perturbations)) < 0.3).astype(np.float32)
    return DeviceData(
        x=jnp.asarray(rng.normal(size=(number, setting.num_features)), jnp.float32),
        start=CELLS_PER_CONDITION * jnp.arange(num_labels),
        count=jnp.full(num_labels, CELLS_PER_CONDITION),
        labels=jnp.asarray(labels),
    )


def plain_model(setting: Setting) -> Model:
    """The comparator's networks: ReLU MLPs of the same widths, decoder mirrored; noise is drawn.

    Ours have a linear map beside them, which is more work.
    """
    assert setting.decoder_hidden == tuple(reversed(setting.encoder_hidden))
    return make_model(
        setting.num_features,
        setting.num_perturbations,
        latent_dim=setting.latent_dim,
        noise="drawn",
        noise_dim=setting.noise_dim,
        observed_effects=False,
        hidden=setting.encoder_hidden,
        activation="relu",
    )


def carrying_model(setting: Setting) -> Model:
    """The default model of the library at the same size: noise carried from the source cell."""
    return make_model(
        setting.num_features,
        setting.num_perturbations,
        latent_dim=setting.latent_dim,
        noise="abducted",
        noise_dim=0,
        observed_effects=True,
        hidden=setting.encoder_hidden,
        activation="silu",
    )


def start_params(model: Model, data: DeviceData) -> dict:
    """Parameters of the right shapes: the time does not depend on the values."""
    random = np.random.default_rng(0)
    start = jax.tree.map(
        lambda leaf: np.asarray(0.1 * random.normal(size=np.shape(leaf)), np.float32), start_shapes(model)
    )
    return jax.jit(model.init)(jax.random.key(0), start)


def make_grouped_step(model: Model, optimizer: optax.GradientTransformation, batch_size: int):
    """The published loss on a batch of rows, grouped by label; rows are drawn on the device."""
    kernel = kernels.energy()

    def loss_fn(params, key, x, group, labels):
        key_decode, key_reconstruct = jax.random.split(key)
        latent = model.encode(params, x)
        shift = model.shift(params, labels[group][None], labels[:, None])
        decoded = model.decode(params, key_decode, latent[None] + shift)
        score = losses.grouped_score(decoded, x, group, kernel)
        return score + objective.reconstruction_score(params, model, key_reconstruct, x[None], latent[None], kernel)

    def step(carry, data):
        params, opt_state, key = carry
        key, key_row, key_loss = jax.random.split(key, 3)
        row = jax.random.randint(key_row, (batch_size,), 0, data.x.shape[0])
        gradient = jax.grad(loss_fn)(params, key_loss, data.x[row], row // CELLS_PER_CONDITION, data.labels)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, key), None

    return step


def time_grouped(setting: Setting, data: DeviceData, batch_size: int) -> float:
    model, optimizer = plain_model(setting), optax.adam(1e-3)
    params = start_params(model, data)
    step = make_grouped_step(model, optimizer, batch_size)
    steps = jax.jit(lambda carry, data, n: jax.lax.fori_loop(0, n, lambda _, c: step(c, data)[0], carry))
    return fastest(steps, (params, optimizer.init(params), jax.random.key(1)), data)


def time_stratified(setting: Setting, data: DeviceData, batch_size: int, num_sources: int, num_targets: int) -> float:
    model = carrying_model(setting)
    sample = make_sampler(
        data.labels.shape[0],
        num_sources=num_sources,
        cells_per_source=max(2, batch_size // num_sources),
        num_targets=num_targets,
        cells_per_target=max(2, batch_size // num_targets),
    )
    weights = objective.LossWeights(*(ON_SURFACE[name] for name in objective.LossWeights._fields))
    numbers = {"num_steps": 1e6, "learning_rate": 1e-3, "warmup_steps": 0.0, "clip_norm": 1.0, "average_decay": 0.999}
    kernel = kernels.energy()
    settings = Settings(
        **{name: jnp.asarray(value) for name, value in numbers.items()},
        weights=weights,
        kernel=jnp.asarray(kernel.parameters, float),
    )
    step = make_train_step(model, sample, kernel=kernel, terms=weights._fields, form="pairwise")
    params = start_params(model, data)
    state = init_state(jax.random.key(1), params, settings)
    steps = jax.jit(lambda s, data, n: jax.lax.fori_loop(0, n, lambda _, c: step(c, data)[0], s))
    return fastest(steps, state, data)


def fastest(steps, carry, data: DeviceData, *, repeats: int = 10, seconds: float = 3.0) -> float:
    """Ms per step, the fastest of `repeats` blocks of steps in about `seconds`; compilation is not counted."""
    carry = jax.block_until_ready(steps(carry, data, 1))
    begin = time.perf_counter()
    carry = jax.block_until_ready(steps(carry, data, 3))
    number = max(1, int(seconds / repeats / ((time.perf_counter() - begin) / 3)))
    best = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        carry = jax.block_until_ready(steps(carry, data, number))
        best = min(best, 1e3 * (time.perf_counter() - begin) / number)
    return best


def main(_):
    rows = []
    for name in CHOSEN.value:
        data = random_data(SETTINGS[name], NUM_LABELS[name])
        timed = {"torch": [], "torch_grouped": [], "grouped": []}
        for _ in range(ROUNDS):
            for which in ("torch", "torch_grouped"):
                found = time_torch_step(
                    name, BATCH.value, num_labels=NUM_LABELS[name], grouped=which == "torch_grouped"
                )
                timed[which].append(found)
            timed["grouped"].append((time_grouped(SETTINGS[name], data, BATCH.value), 0))
        (torch_ms, threads), (torch_grouped, _), (grouped, _) = map(min, timed.values())
        for num_targets in NUM_TARGETS[name]:
            stratified = time_stratified(SETTINGS[name], data, BATCH.value, NUM_SOURCES[name], num_targets)
            rows.append(
                {
                    "setting": name,
                    "batch": BATCH.value,
                    "labels": NUM_LABELS[name],
                    "sources": NUM_SOURCES[name],
                    "targets": num_targets,
                    "torch_ms": round(torch_ms, 2),
                    "torch_threads": threads,
                    "torch_grouped_ms": round(torch_grouped, 2),
                    "grouped_ms": round(grouped, 2),
                    "stratified_ms": round(stratified, 2),
                    "grouping": round(torch_ms / torch_grouped, 1),
                    "compiled": round(torch_grouped / grouped, 1),
                    "grouped_speedup": round(torch_ms / grouped, 1),
                    "stratified_speedup": round(torch_ms / stratified, 1),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    path = pathlib.Path(OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{jax.devices()[0].device_kind}; table in {path}")


if __name__ == "__main__":
    app.run(main)

"""The sides of `time_to_quality`: ours, the published algorithm in eager PyTorch, and our recipe in eager PyTorch."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pdae_jax.model.model import linear_start
from pdae_jax.recipe import Recipe
from pdae_jax.training.defaults import resolve_recipe
from pdae_jax.training.pilot import make_pilot
from pdae_jax.training.plan import Request, check_request, make_plan
from pdae_jax.training.prepare import prepare
from pdae_jax.training.step import make_train_steps
from pdae_jax.types import PerturbationData
from pdae_jax.view.sampler import DeviceData
from pdae_jax.view.units import make_standardizer

CHUNK = 25


FAST = {
    "latent_dim": 4,
    "noise": "drawn",  # of dimension 0: a decoder without noise, which these worlds have not
    "noise_dim": 0,
    "hidden": [64, 64],
    "cells_per_source": 8,
    "cells_per_target": 32,
    "reconstruction": 0.5,
    "likelihood": 0.0,
    "num_steps": 1000,
    "learning_rate": 1.5e-2,
    "warmup_steps": 25,
    "average_decay": 0.99,
}


class Task(NamedTuple):
    """Data in memory, and what judges."""

    train: PerturbationData
    test: PerturbationData
    seed: int


# cells [n, features] and a label [perturbations] -> cells at that label, both in the user's units
Translate = Callable[[Float[np.ndarray, "n d"], Float[np.ndarray, " perturbations"]], Float[np.ndarray, "n d"]]


class Contender(NamedTuple):
    advance: Callable[[], int]  # trains, waits for it and says for how many steps
    translate: Translate


def make_ours(task: Task, recipe: Recipe) -> Contender:
    request = Request(task.train, jax.random.key(task.seed), recipe.override(log_every=CHUNK), streams=1)
    parts = prepare(make_plan(check_request(request)), ahead=True)
    steps, data = make_train_steps(parts.step, CHUNK), parts.data
    assert isinstance(data, DeviceData)
    state = parts.state.train
    move = jax.jit(parts.frame.model.translate)

    def advance() -> int:
        nonlocal state
        state, metrics = steps(state, data)
        jax.block_until_ready(metrics)
        return CHUNK

    def translate(x, label):
        view, key = parts.plan.view, jax.random.key(0)
        label = parts.plan.design.row(label)
        moved = move(parts.frame.unravel(state.average), key, view.into(x), jnp.zeros_like(label), label)
        return view.back(x, np.asarray(moved), key)

    return Contender(advance, translate)


def make_pytorch(task: Task) -> Contender:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks import torch_reference as reference

    torch.manual_seed(task.seed)
    standardizer = make_standardizer(task.train, "feature")
    networks = reference.make_networks(reference.SETTINGS["10-d"])
    x_train = torch.from_numpy(standardizer.forward(task.train.x).astype(np.float32))
    step = reference.make_step(networks, x_train, torch.from_numpy(task.train.labels[task.train.condition_index]))

    def advance() -> int:
        step()
        return 1

    def translate(x, label):  # from the control, whose label is zero
        x = torch.from_numpy(standardizer.forward(x).astype(np.float32))
        return standardizer.backward(reference.translate(networks, x, torch.from_numpy(label)).numpy())

    return Contender(advance, translate)


def make_pytorch_recipe(task: Task, recipe: Recipe) -> Contender:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks.torch_recipe import make_recipe_step

    torch.manual_seed(task.seed)
    recipe = resolve_recipe(recipe, task.train)
    pilot = make_pilot(recipe, task.train)
    data, every = task.train, np.arange(task.train.num_cells)
    start = linear_start(
        pilot.cells(every),
        pilot.design.rows[data.condition_index],
        pilot.additive,
        recipe.latent_dim,
    )
    x = torch.from_numpy(pilot.cells(np.concatenate(data.rows)))
    sizes = np.cumsum([0, *map(len, data.rows)])
    rows = [np.arange(a, b) for a, b in itertools.pairwise(sizes)]
    step, average = make_recipe_step(start, x, rows, torch.from_numpy(pilot.design.rows), recipe)

    def advance() -> int:
        step()
        return 1

    @torch.no_grad()
    def translate(x, label):
        label = torch.from_numpy(pilot.design.row(label))
        moved = average.translate(torch.from_numpy(pilot.view.into(x)), label)
        return pilot.view.back(x, moved.numpy(), jax.random.key(0))

    return Contender(advance, translate)


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/benchmarks/time_to_quality.py, which uses it.")

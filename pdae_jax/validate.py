"""Energy distance on conditions that are never trained on, fast enough to be asked for while training."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax import kernels
from pdae_jax.fitted import Standardizer
from pdae_jax.losses import two_sample_statistic
from pdae_jax.model import Model
from pdae_jax.types import PerturbationData

MAX_CELLS = 1000  # of a sample; a fixed random choice, so that evaluations of one run are comparable


class Validator(NamedTuple):
    """Energy distances (U form, beta = 1, the user's units) to the cells of each validation condition."""

    errors: Callable[[dict], Array]  # params -> [conditions], of control cells translated to the condition
    control: Float[np.ndarray, " conditions"]  # of the control cells as they are: what no prediction would give
    conditions: tuple[str, ...]


def make_validator(
    key: Array, model: Model, standardizer: Standardizer, train: PerturbationData, validation: PerturbationData
) -> Validator:
    """Fix the cells and the decoder noise; what remains is a compiled function of the parameters."""
    key_source, key_noise, key_cells = jax.random.split(key, 3)
    source = _choose(key_source, train.cells(train.control))
    keys = jax.random.split(key_cells, validation.num_conditions)
    cells = [_choose(k, validation.cells(c)) for k, c in zip(keys, validation.conditions, strict=True)]
    size = max(len(c) for c in cells)
    # padded rows weigh nothing: one compiled shape for all conditions
    weights = jnp.asarray(np.stack([np.arange(size) < len(c) for c in cells]), dtype=jnp.float32)
    x_true = jnp.asarray(np.stack([np.pad(c, ((0, size - len(c)), (0, 0))) for c in cells]))
    scale = jnp.asarray(standardizer.scale)
    x_source = jnp.asarray(standardizer.forward(source).astype(np.float32))
    labels = jnp.asarray(validation.labels)
    noise_keys = jax.random.split(key_noise, len(labels))

    def distance(predicted: Array, y: Array, w: Array) -> Array:
        return two_sample_statistic(predicted, y, kernels.energy(1.0), weights_y=w)

    @jax.jit
    def errors(params: dict) -> Array:
        def one(args: tuple) -> Array:
            noise_key, label, y, w = args
            moved = model.translate(params, noise_key, x_source, jnp.zeros_like(label), label)
            return distance(moved * scale + standardizer.mean, y, w)

        return jax.lax.map(one, (noise_keys, labels, x_true, weights))

    control = jax.lax.map(lambda args: distance(jnp.asarray(source), *args), (x_true, weights))
    return Validator(errors, np.asarray(control), validation.conditions)


def _choose(key: Array, cells: np.ndarray) -> np.ndarray:
    rows = np.asarray(jax.random.permutation(key, len(cells)))[:MAX_CELLS]
    return cells[rows]

"""Energy distance on conditions that are never trained on, fast enough to be asked for while training."""

from collections.abc import Callable, Mapping
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

    errors: Callable[[dict], Array]  # params -> [conditions], of source cells translated to the condition
    control: Float[np.ndarray, " conditions"]  # of the control cells as they are: what no prediction would give
    conditions: tuple[str, ...]


def make_validator(
    key: Array,
    model: Model,
    standardizer: Standardizer,
    train: PerturbationData,
    validation: PerturbationData,
    source: Mapping[str, str] | None = None,
) -> Validator:
    """Fix the cells and the decoder noise; what remains is a compiled function of the parameters.

    `source` maps a validation condition to the training condition whose cells are translated to it; those it leaves
    out, to the control.
    """
    key_source, key_noise, key_cells = jax.random.split(key, 3)
    control_cells = _choose(key_source, train.cells(train.control))
    sources = [(source or {}).get(name, train.control) for name in validation.conditions]
    drawn = {name: _resample(key_source, train.cells(name)) for name in sources}
    keys = jax.random.split(key_cells, validation.num_conditions)
    cells = [_choose(k, validation.cells(c)) for k, c in zip(keys, validation.conditions, strict=True)]
    size = max(len(c) for c in cells)
    # padded rows weigh nothing: one compiled shape for all conditions
    weights = jnp.asarray(np.stack([np.arange(size) < len(c) for c in cells]), dtype=jnp.float32)
    x_true = jnp.asarray(np.stack([np.pad(c, ((0, size - len(c)), (0, 0))) for c in cells]))
    scale = jnp.asarray(standardizer.scale)
    x_source = jnp.asarray(np.stack([standardizer.forward(drawn[name]) for name in sources]).astype(np.float32))
    label_source = jnp.asarray(np.stack([train.labels[train.index(name)] for name in sources]))
    labels = jnp.asarray(validation.labels)
    noise_keys = jax.random.split(key_noise, len(labels))

    counts = np.array([len(train.cells(name)) for name in sources])
    # a cell that stands twice in a sample would count as a pair of distinct ones
    source_weights = jnp.asarray(np.arange(MAX_CELLS) < counts[:, None], dtype=jnp.float32)

    def distance(predicted: Array, y: Array, w: Array, source_weight: Array | None = None) -> Array:
        return two_sample_statistic(predicted, y, kernels.energy(1.0), weights_x=source_weight, weights_y=w)

    @jax.jit
    def errors(params: dict) -> Array:
        def one(args: tuple) -> Array:
            noise_key, x, source_weight, label_from, label, y, w = args
            moved = model.translate(params, noise_key, x, label_from, label)
            return distance(moved * scale + standardizer.mean, y, w, source_weight)

        return jax.lax.map(one, (noise_keys, x_source, source_weights, label_source, labels, x_true, weights))

    control = jax.lax.map(lambda args: distance(jnp.asarray(control_cells), *args), (x_true, weights))
    return Validator(errors, np.asarray(control), validation.conditions)


def _resample(key: Array, cells: np.ndarray) -> np.ndarray:
    """Exactly `MAX_CELLS` rows, one shape for all sources; rows beyond the cells there are get no weight."""
    rows = np.asarray(jax.random.permutation(key, len(cells)))
    return cells[np.resize(rows, MAX_CELLS)]


def _choose(key: Array, cells: np.ndarray) -> np.ndarray:
    rows = np.asarray(jax.random.permutation(key, len(cells)))[:MAX_CELLS]
    return cells[rows]

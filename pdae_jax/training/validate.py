"""Energy distance on conditions that are never trained on, fast enough to be asked for while training."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float
from scipy.spatial.distance import pdist, squareform

from pdae_jax.cells import StoredCells
from pdae_jax.compiled import RUNS_SHORT, jitted
from pdae_jax.design.design import Design
from pdae_jax.model.model import Model
from pdae_jax.randomness import make_random
from pdae_jax.spelling import first_names
from pdae_jax.training.devices import AXIS, Devices
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.statistics import two_sample_statistic
from pdae_jax.two_sample.target import Against, Target
from pdae_jax.types import AnyArray, PerturbationData
from pdae_jax.view.view import View

_MANY_CELLS = 200  # for an estimate of a standard deviation
MAX_CELLS = 1000  # of a sample; a fixed random choice, so that evaluations of one run are comparable


class Cases(NamedTuple):
    """The fixed part of each validation condition; every field has one row a condition."""

    noise_key: Array
    x_source: Float[Array, "conditions m features"]  # cells as they are everywhere here, in the user's units
    weight_source: Float[Array, "conditions m"]
    label_source: Float[Array, "conditions perturbations"]
    label: Float[Array, "conditions perturbations"]
    x: Float[Array, "conditions n features"]
    weight: Float[Array, "conditions n"]
    size_source: Float[Array, "conditions m"] | None = None  # of counts, the size factors of the source cells


class Validator(NamedTuple):
    """Energy distances (U form, beta = 1, the user's units) to the cells of each validation condition."""

    errors: Callable[[dict], Array]  # params -> [conditions], of source cells translated to the condition
    control: Float[np.ndarray, " conditions"]  # of the control cells as they are: the error of predicting no effect
    conditions: tuple[str, ...]
    noise: float  # standard deviation of the mean of `errors` for a prediction that is exact, see `exact_noise`


def worth_keeping(value: AnyArray | float, lowest: AnyArray | float, noise: float) -> Array:
    """Tell whether parameters with this mean error are kept instead of earlier ones.

    They are unless they are worse by more than chance: as the learning rate falls later parameters are the better
    ones, and where evaluations differ by chance the smallest may be any of them. An exact prediction has errors around
    zero, so one below zero is not better than zero. Half of `noise`: evaluations share the cells and the decoder's
    noise, so differences between them are less noisy than each, and where cells are few overfitting starts within it.

    Args:
        value: mean error of this evaluation, user's units.
        lowest: smallest of the evaluations before; infinite before the first.
        noise: see `Validator`.
    """
    return jnp.less_equal(value, jnp.maximum(jnp.minimum(value, lowest), 0.0) + noise / 2)


def check_errors(errors: Float[np.ndarray, " conditions"], conditions: Sequence[str], step: int) -> None:
    """Raise ``FloatingPointError`` where an error is NaN or infinite: nothing compares with it, so nothing could be
    kept.
    """
    bad = [name for name, error in zip(conditions, errors, strict=True) if not np.isfinite(error)]
    if bad:
        raise FloatingPointError(
            f"At step {step} the error on validation conditions became NaN or infinite: {first_names(bad)}. Lower "
            f"learning_rate, or look for extreme values in the cells of these conditions and of their sources."
        )


def make_validator(
    key: Array,
    model: Model,
    view: View,
    design: Design,
    train: PerturbationData,
    validation: PerturbationData,
    source: Mapping[str, str] | None = None,
    *,
    devices: Devices | None = None,
) -> Validator:
    """Fix the cells and the decoder noise; what remains is a compiled function of the parameters.

    `source` maps a validation condition to the training condition whose cells are translated to it, by the names that
    the data have; those it leaves out, to the control. Errors are those of predictions, in the user's units. With
    `devices` each evaluates some of the conditions, and the parameters are those that all of them have.
    """
    key_source, key_noise, key_cells = jax.random.split(key, 3)
    sources = [(source or {}).get(name, train.control) for name in validation.conditions]
    row_of = {name: row for row, name in enumerate(train.conditions)}
    at = [row_of[name] for name in sources]
    keys = jax.random.split(key_cells, len(sources))
    cells = [_choose(k, validation.x, rows) for k, rows in zip(keys, validation.rows, strict=True)]
    size = max(len(c) for c in cells)
    chosen = np.stack([_resample(key_source, train.rows[row]) for row in at])
    counts = train.counts[at]
    cases = Cases(
        noise_key=jax.random.split(key_noise, len(cells)),
        x_source=jnp.asarray(np.stack([train.x[rows] for rows in chosen])),
        # a cell that stands twice in a sample would count as a pair of distinct ones
        weight_source=jnp.asarray(np.arange(MAX_CELLS) < counts[:, None], dtype=jnp.float32),
        label_source=jnp.asarray(design.rows[at]),
        label=jnp.asarray(design.row(validation.labels)),
        x=jnp.asarray(np.stack([np.pad(c, ((0, size - len(c)), (0, 0))) for c in cells])),
        # padded rows weigh nothing: one compiled shape for all conditions
        weight=jnp.asarray(np.stack([np.arange(size) < len(c) for c in cells]), dtype=jnp.float32),
        size_source=jax.device_put(train.sizes(chosen)),
    )
    view = jax.tree.map(jnp.asarray, view)

    noise = exact_noise(cells, [min(int(n), MAX_CELLS) for n in counts], sources)
    control_cells = _choose(key_source, train.x, train.rows[design.control])
    # in NumPy: for once there is nothing to compile
    control = np.array([Against(control_cells, Target(each, key_cells)).energy_distance for each in cells])
    if devices is None:
        return Validator(lambda params: _errors(model, params, cases, view), control, validation.conditions, noise)
    number = len(cells)
    rows = np.minimum(np.arange(-(-number // devices.number) * devices.number), number - 1)  # an equal number for each
    spread = devices.spread(jax.tree.map(lambda field: field[rows], cases))
    view = devices.everywhere(view)

    def errors(params: dict) -> Array:
        return _shared_errors(model, devices, number, params, spread, view)

    return Validator(errors, control, validation.conditions, noise)


def _distance(predicted: Array, weight_predicted: Array | None, y: Array, weight: Array) -> Array:
    return two_sample_statistic(predicted, y, kernels.energy(1.0), weights_x=weight_predicted, weights_y=weight)


def _of_predictions(model: Model, params: dict, cases: Cases, view: View) -> Array:
    def one(case: Cases) -> Array:
        def translate(seen: Array, size: Array | None) -> Array:
            return model.translate(params, case.noise_key, seen, case.label_source, case.label, size)

        predicted = view.translated(translate, case.x_source, case.noise_key, case.size_source)
        return _distance(predicted, case.weight_source, case.x, case.weight)

    return jax.lax.map(one, cases)


# of the model and not of the data, so that fits of one shape, as in a sweep, compile it once
_errors = jitted(_of_predictions, RUNS_SHORT, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _shared_errors(
    model: Model,
    devices: Devices,
    number: int,
    params: dict,
    cases: Cases,
    view: View,
) -> Array:
    """The errors of the first `number` cases, which are spread over the devices."""
    everywhere, spread = PartitionSpec(), PartitionSpec(AXIS)
    each = jax.shard_map(
        lambda *arguments: _of_predictions(model, *arguments),
        mesh=devices.mesh,
        in_specs=(everywhere, spread, everywhere),
        out_specs=spread,
        check_vma=False,
    )
    return devices.joined(each(params, cases, view)[:number])


def exact_noise(cells: Sequence[Float[np.ndarray, "_ features"]], used: Sequence[int], sources: Sequence[str]) -> float:
    r"""Return the standard deviation of the mean of U-form energy distances over conditions, for predictions that are
    exact.

    For :math:`m` cells translated to condition `c` and compared with `n_c` of its own, to leading order

    .. math:: \mathrm{Var} = 2 V_c (1 / m + 1 / n_c)^2, \qquad \mathrm{Cov}(c, c') = 2 C_{c c'} / m^2

    with `V_c` the distance variance, where the same source cells are translated to both; :math:`C_{cc'}` depends on the
    translations, and is taken at its largest, :math:`\sqrt{V_c V_{c'}}`, which it reaches where they differ by shifts.

    Args:
        cells: of each condition.
        used: number of source cells translated to each.
        sources: their condition.
    """
    spreads = np.array([distance_variance(y) for y in cells])
    m, n = np.asarray(used, np.float64), np.array([len(y) for y in cells], np.float64)
    own = 2 * spreads * ((1 / m + 1 / n) ** 2 - 1 / m**2)
    _, group = np.unique(sources, return_inverse=True)
    common = 2 * np.bincount(group, np.sqrt(spreads) / m) ** 2
    return float(np.sqrt(np.sum(own) + np.sum(common)) / len(cells))


def null_variance(y: Float[np.ndarray, "n features"], m: int) -> float:
    """Return the variance of the U-form energy distance between these cells and `m` others of the same law.

    :math:`2 (1/n + 1/m)^2` times the distance variance.
    """
    return 2 * (1 / len(y) + 1 / m) ** 2 * distance_variance(y)


def distance_variance(y: Float[np.ndarray, "n features"]) -> float:
    """Return the mean squared distance of two cells after double centring, U-centred (Szekely & Rizzo, Ann. Statist.
    42, 2014).

    Of some of the cells; zero where they are too few to have one.
    """
    some = y[:_MANY_CELLS].astype(np.float64)
    number = len(some)
    if number < 4:
        return 0.0
    distances = squareform(pdist(some))
    rows = distances.sum(axis=1) / (number - 2)
    centred = distances - rows[:, None] - rows + rows.sum() / (number - 1)
    np.fill_diagonal(centred, 0.0)
    return float(np.sum(centred**2)) / (number * (number - 3))


def _resample(key: Array, rows: np.ndarray) -> np.ndarray:
    """Exactly `MAX_CELLS` rows, one shape for all sources; those beyond the cells there are get no weight."""
    return rows[np.resize(make_random(key).permutation(len(rows)), MAX_CELLS)]


def _choose(key: Array, x: np.ndarray | StoredCells, rows: np.ndarray) -> np.ndarray:
    """The cells of some of the rows, at most `MAX_CELLS`."""
    return x[make_random(key).permutation(rows)[:MAX_CELLS]]

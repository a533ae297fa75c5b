r"""Tables of whether the model's assumptions hold, and its predictions are such cells as were measured."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.cells import evenly_spaced
from pdae_jax.data.moments import moments
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import Prediction, reach_of
from pdae_jax.two_sample.permutation import two_sample_tests
from pdae_jax.types import PerturbationData, Table, once_for_each

QUANTILES = (0.01, 0.5, 0.99)
MAX_TESTED_CELLS = 300  # of each law of residuals
_ENCODED = 2000  # cells of a condition, at most
_MOST_CELLS = 20_000  # that measured quantiles are found from


def residuals(fitted: Fitted, condition: str) -> Float[np.ndarray, "cells features"]:
    r"""Infer the noise :math:`(x - \mu(z)) / s(z)` of a training condition's cells, in the model's units.

    Of 2,000 cells at most.

    Raises:
        ValueError: a model whose noise is drawn; it has none of its own.
    """
    if not fitted.model.carries_noise:
        raise ValueError(
            f"noise={fitted.model.noise!r}: cells have no noise of their own. Fit with noise='abducted', the default."
        )
    rows = np.random.default_rng(fitted.seed).permutation(fitted.train.rows[fitted.train.index(condition)])[:_ENCODED]
    x = jnp.asarray(fitted.view.into(fitted.train.x[rows]))
    z = fitted.model.encode(fitted.params, x)
    return np.asarray(fitted.model.abduct(fitted.params, x, z, fitted.view.size_seen(fitted.train.sizes(rows))))


def residual_laws(fitted: Fitted, *, key: Array, num_permutations: int = 199, most: int | None = None) -> Table:
    """Test that noise is independent of the perturbation: residuals of training conditions against the control's.

    The model carries a cell's noise to every label. That is right where the noise has the same law under all labels.
    A condition whose residuals have a law of their own changes cells in a way that the latents do not see; translations
    from and to it keep the wrong noise.

    Args:
        fitted: a model with abducted noise.
        key: of the permutation tests.
        num_permutations: of each test.
        most: of more conditions, so many are tested, evenly spaced in their order; None: all. P-values that pass a
            correction for many tests take many permutations each.

    Returns:
        DataFrame indexed by condition: ``energy_distance`` (U form, between residuals, in the model's units),
        ``spread`` (root mean square of the residuals over that of the control's), ``p_value``, ``p_adjusted``
        (Benjamini-Hochberg over conditions).
    """
    import pandas as pd

    train = fitted.train
    of_control = residuals(fitted, train.control)
    names = [c for c in train.conditions if c != train.control]
    if most is not None:
        names = [names[row] for row in evenly_spaced(len(names), most)]
    others = {c: residuals(fitted, c) for c in names}
    found = two_sample_tests(
        {c: (eps, of_control) for c, eps in others.items()},
        key=key,
        num_permutations=num_permutations,
        max_cells=MAX_TESTED_CELLS,
    )
    spread = [float(np.sqrt(np.mean(eps**2) / np.mean(of_control**2))) for eps in others.values()]
    return pd.DataFrame(
        {
            "energy_distance": found.statistic,
            "spread": spread,
            "p_value": found.p_value,
            "p_adjusted": found.p_adjusted,
        },
        index=pd.Index(list(others), name="condition"),
    )


def extremes(prediction: Prediction, train: PerturbationData) -> Table:
    """Compare quantiles and extremes of predicted values and of measured training cells, per feature.

    Measured quantiles are those of 20,000 cells at most, extremes those of all.

    Returns:
        DataFrame indexed by feature: ``predicted_1%``, ``predicted_50%``, ``predicted_99%``, ``predicted_min``,
        ``predicted_max``, the same with ``measured_``, and ``reach``
        (`prediction.samples.reach_of`), the farthest first.
    """
    import pandas as pd

    found, samples = moments(train), prediction.samples
    columns = {}
    for name, quantiles, low, high in (
        ("predicted", np.quantile(samples, QUANTILES, axis=0), samples.min(axis=0), samples.max(axis=0)),
        ("measured", _measured_quantiles(train), found.lowest, found.highest),
    ):
        columns |= {f"{name}_{level:.0%}": row for level, row in zip(QUANTILES, quantiles, strict=True)}
        columns |= {f"{name}_min": low, f"{name}_max": high}
    table = pd.DataFrame(columns, index=pd.Index(train.features, name="feature"))
    table["reach"] = reach_of(prediction.samples, train)
    return table.sort_values("reach", ascending=False)


@once_for_each  # a report asks for every held-out condition
def _measured_quantiles(train: PerturbationData) -> Float[np.ndarray, "quantiles features"]:
    """Find the quantiles of at most `_MOST_CELLS` training cells."""
    rows = np.random.default_rng(0).permutation(train.num_cells)[:_MOST_CELLS]
    return np.quantile(train.x[np.sort(rows)], QUANTILES, axis=0)

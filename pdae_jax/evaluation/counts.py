r"""Do predicted counts look like counts that were measured? Zeros, spread and dependence, beside as many real cells."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.design.design import design_of
from pdae_jax.evaluation.metrics import correlations
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.samples import predict
from pdae_jax.randomness import make_random
from pdae_jax.types import PerturbationData, Table
from pdae_jax.view.lattice import log_normalised, to_counts

CORRELATED_FEATURES = 50  # the most abundant ones
_ENOUGH = 0.1  # mean count of a feature, for its spread to mean something
QUANTITIES = ("zeros", "zeros_error", "mean_variance_slope", "variance_ratio", "correlation_error")


class CountedCells(NamedTuple):
    """Counts with what normalises them."""

    counts: Int[np.ndarray, "cells features"]
    size_factors: Float[np.ndarray, " cells"]


def count_diagnostics(
    fitted: Fitted | Ensemble, test: PerturbationData, *, key: Array, sources: dict[str, str] | None = None
) -> Table:
    r"""Compare the laws of predicted and measured counts, one row per held-out condition and method.

    One half of the measured cells is the reference. ``pdae`` is the prediction, ``control`` are control cells as they
    are, and ``oracle_half`` is the other half of the measured cells: what an exact prediction of so many cells has.

    Args:
        fitted: the model; its training data have size factors.
        test: measured cells of held-out conditions, with size factors.
        key: typed PRNG key.
        sources: condition -> whose cells are translated; default the control.

    Returns:
        DataFrame with ``condition``, ``method``, ``cells``, and

        * ``zeros``: share of zeros;
        * ``zeros_error``: root mean square over features of the difference of their shares of zeros;
        * ``mean_variance_slope``: of the log variance of counts on their log mean, over features (1: Poisson);
        * ``variance_ratio``: median over features of the variance over the measured one;
        * ``correlation_error``: root mean square difference of the correlations of log-normalised values, over pairs of
          the 50 most abundant features.

    Raises:
        ValueError: data that are not known as counts.
    """
    import pandas as pd

    train = fitted.train
    for name, data in (("training", train), ("test", test)):
        if data.size_factors is None:
            raise ValueError(f"The {name} data are not known as counts. Read them with normalize=True.")
    rows = []
    for number in np.flatnonzero(design_of(test).perturbed).tolist():
        condition = test.conditions[number]
        key_split, key_predict, key_counts = jax.random.split(jax.random.fold_in(key, number), 3)
        cells = make_random(key_split).permutation(test.rows[number])
        half = len(cells) // 2
        reference, other = (counted(test, part) for part in (cells[:half], cells[half : 2 * half]))
        start = (sources or {}).get(condition, train.control)
        prediction = predict(fitted, test.labels[number], key=key_predict, num_samples=half, source=start)
        assert prediction.size_factors is not None
        control = make_random(key_split).permutation(train.rows[fitted.design.control])[:half]
        methods = {
            "pdae": CountedCells(prediction.counts(key_counts), prediction.size_factors),
            "control": counted(train, control),
            "oracle_half": other,
        }
        rows += [
            {"condition": condition, "method": name, "cells": len(sample.counts), **compare(sample, reference)}
            for name, sample in methods.items()
        ]
    return pd.DataFrame(rows)


def counted(data: PerturbationData, rows: Int[np.ndarray, " cells"]) -> CountedCells:
    """Take cells of data with size factors as counts."""
    sizes = data.sizes(rows)
    assert sizes is not None
    return CountedCells(to_counts(np.random.default_rng(0), data.x[rows], sizes), sizes)


def compare(sample: CountedCells, reference: CountedCells) -> dict[str, float]:
    """Compute the `QUANTITIES` of a sample; see `count_diagnostics`."""
    zeros, true_zeros = np.mean(sample.counts == 0, axis=0), np.mean(reference.counts == 0, axis=0)
    mean, variance = sample.counts.mean(axis=0), sample.counts.var(axis=0)
    true_mean, true_variance = reference.counts.mean(axis=0), reference.counts.var(axis=0)
    seen = (mean > _ENOUGH) & (true_mean > _ENOUGH) & (variance > 0) & (true_variance > 0)
    slope = np.polyfit(np.log(mean[seen]), np.log(variance[seen]), 1)[0] if seen.sum() > 2 else np.nan
    abundant = np.argsort(-true_mean, kind="stable")[:CORRELATED_FEATURES]
    difference = log_correlations(sample, abundant) - log_correlations(reference, abundant)
    pairs = np.triu_indices(len(abundant), 1)
    return {
        "zeros": float(zeros.mean()),
        "zeros_error": float(np.sqrt(np.mean((zeros - true_zeros) ** 2))),
        "mean_variance_slope": float(slope),
        "variance_ratio": float(np.median(variance[seen] / true_variance[seen])) if seen.any() else float("nan"),
        "correlation_error": float(np.sqrt(np.mean(difference[pairs] ** 2))) if len(pairs[0]) else float("nan"),
    }


def log_correlations(sample: CountedCells, features: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some some"]:
    """Compute Pearson correlations of log-normalised values; 0 with a feature that is constant."""
    return correlations(log_normalised(sample.counts[:, features], sample.size_factors))

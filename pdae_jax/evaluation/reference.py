"""The `Reference` of a condition: control cells, other conditions, the measured range, how true cells are spread."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax.data.moments import condition_means, moments
from pdae_jax.design.design import Design, design_of, make_design
from pdae_jax.evaluation.cases import Case
from pdae_jax.evaluation.differential import CONTROL_CELLS, Summary, differential
from pdae_jax.evaluation.metrics import Reference
from pdae_jax.evaluation.summary import MIN_CELLS_OF_A_LAW
from pdae_jax.training.validate import distance_variance
from pdae_jax.two_sample.target import Target
from pdae_jax.types import PerturbationData, once_for_each

_POOLED_CELLS = 200


class Alternatives(NamedTuple):
    """All perturbed conditions of an evaluation: what a prediction could be mistaken for."""

    design: Design
    means: Float[np.ndarray, "conditions features"]

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Alternatives":
        """Collect labels and true means of the cases, which have the label columns of the training data."""
        means = [condition_means(case.data)[case.data.index(case.condition)] for case in cases]
        labels = np.stack([case.label for case in cases])
        return cls(make_design(labels, cases[0].data.perturbations), np.stack(means))


def reference_of(
    train: PerturbationData,
    label: Float[np.ndarray, " perturbations"],
    alternatives: Alternatives,
    target: Target,
) -> Reference:
    """Collect what metrics may know of a condition with this label and these true cells, at least two."""
    control, measured, true = _control_summary(train), moments(train), target.cells
    return Reference(
        control_mean=condition_means(train)[design_of(train).control],
        centroid=_centroid(train),
        other_means=np.delete(alternatives.means, alternatives.design.find(label), axis=0),
        bandwidth=target.scale,
        spread=distance_variance(true) if len(true) >= MIN_CELLS_OF_A_LAW else spread_within(train),
        lowest=np.minimum(measured.lowest, true.min(axis=0)),
        highest=np.maximum(measured.highest, true.max(axis=0)),
        control_cells=_control_cells(train),
        control=control,
        true_change=differential(Summary.of(true), control),
    )


# An evaluation asks these for every condition; of thousands they take longer than its metrics.
@once_for_each
def _centroid(train: PerturbationData) -> Float[np.ndarray, " features"]:
    return condition_means(train)[design_of(train).perturbed].mean(axis=0)


@once_for_each
def spread_within(train: PerturbationData) -> float:
    """Find the distance variance of cells around the mean of their condition, pooled: three wells do not show it."""
    own = train.counts[train.condition_index]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(own > 1))[:_POOLED_CELLS]
    off = train.x[rows] - condition_means(train)[train.condition_index[rows]]
    # a mean of few cells is near each of them
    return distance_variance(off * np.sqrt(own[rows] / (own[rows] - 1))[:, None])


@once_for_each
def _control_cells(train: PerturbationData) -> Float[np.ndarray, "cells features"]:
    rows = train.rows[design_of(train).control]
    return train.x[np.random.default_rng(0).permutation(rows)[:CONTROL_CELLS]].astype(np.float64)


@once_for_each
def _control_summary(train: PerturbationData) -> Summary:
    return Summary.of(_control_cells(train))

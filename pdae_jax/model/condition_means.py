"""The means of conditions, predicted: the linear model, and what combinations are seen to do beyond it.

Interactions are borrowed from similar combinations (`condition_kernel`) or, where most pairs were measured, read off
the completed table of pairs (`completion`); either only where it predicts left-out combinations better than the linear
model by more than a standard error (two of the table, whose shrinkage is the best of eight). It is where every fit
starts, and the baseline `ridge`.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Real

from pdae_jax.data.moments import condition_means, weights_of_conditions
from pdae_jax.data.principal import principal_directions
from pdae_jax.design.design import Design, design_of
from pdae_jax.design.effects import effective_label
from pdae_jax.model.choice import better
from pdae_jax.model.completion import SHRINKAGES, Pairs, complete
from pdae_jax.model.condition_kernel import Measured, choose_kernel, fit_process
from pdae_jax.model.interactions import Interactions, interaction_sizes, interactions_at, no_interactions
from pdae_jax.model.linear import LinearModel, coordinates, fit_linear
from pdae_jax.types import PerturbationData

MIN_NOISE_DIRECTIONS = 30  # of noise alone, before it is measured by condition
NOISE_RANGE = (0.3, 10.0)  # of the median condition's
_FOLDS = 5


class ConditionMeans(NamedTuple):
    """Predicted differences of means from the control's, in the units of the means that they were fitted to."""

    linear: LinearModel
    interactions: Interactions | None  # None: too few combinations to say anything of them
    interacts: str  # what they are from: ``"nothing"``, ``"similar combinations"`` or ``"the table of pairs"``
    tested: Bool[np.ndarray, " conditions"]  # combinations that the other conditions determine
    left_out: Float[np.ndarray, "tested features"]  # each of these, predicted from all other conditions

    def predict(self, row: Float[np.ndarray, "*batch columns"]) -> Float[np.ndarray, "*batch features"]:
        """Predict the difference of the mean from the control's, of rows of the design (`Design.row`)."""
        return self.linear.predict(row) + self.interaction(row)

    def interaction(self, row: Float[np.ndarray, "*batch columns"]) -> Float[np.ndarray, "*batch features"]:
        """Say how much of it lies beyond the linear model."""
        row = np.asarray(row, np.float64)
        if self.interactions is None:
            return np.zeros((*row.shape[:-1], self.linear.effects.shape[1]))
        return np.asarray(interactions_at(self.interactions, row))


def fit_condition_means(
    means: Float[np.ndarray, "conditions features"], design: Design, counts: Real[np.ndarray, " conditions"]
) -> ConditionMeans:
    """Fit the linear model and, where they are found, interactions.

    Args:
        means: of each condition; features on a common scale.
        design: of these conditions; the control is one of them.
        counts: what the weight of a mean goes with: cells, or the counts in them.
    """
    linear = fit_linear(means, design, counts)
    tested = design.determined_by_others & (design.num_effects > 1)
    sizes = interaction_sizes(design, means.shape[1])
    if sizes is None:
        return ConditionMeans(linear, None, "nothing", tested, linear.left_out)
    measured = measure(means, design, counts)
    axes = np.zeros((sizes.directions, means.shape[1]))
    found = principal_directions(measured.scores, sizes.directions)[1]
    axes[: len(found)] = found
    nothing = no_interactions(sizes, linear.saturation)._replace(directions=axes)
    truth = measured.scores[measured.tested]
    of_nothing = _squares(linear.left_out - truth)
    candidates = [("nothing", nothing, linear.left_out)]
    by_noise = noise_of_means(measured)
    for standard_errors, candidate in (
        (1.0, _by_kernel(measured, linear, nothing)),
        (1.0, None if by_noise is None else _by_kernel(measured._replace(noise=by_noise), linear, nothing)),
        (2.0, _by_completion(measured, linear, nothing) if sizes.completed else None),
    ):
        if candidate is not None and better(_squares(candidate[2] - truth), of_nothing, standard_errors):
            candidates.append(candidate)
    name, interactions, left_out = min(candidates, key=lambda found: float(np.mean(_squares(found[2] - truth))))
    return ConditionMeans(linear, interactions, name, tested, left_out)


def noise_of_means(measured: Measured) -> Float[np.ndarray, " conditions"] | None:
    """Find the relative variances of means from the noise that they show, whatever it is from.

    Cells of a well, of a guide, or of a screen that is read as effects are not all the noise there is. Effects are long
    in a few directions; in the other half of them a condition has little else than its noise. None where there are too
    few directions to say so.
    """
    scores = measured.scores
    if min(scores.shape) < 2 * MIN_NOISE_DIRECTIONS:
        return None
    left, values, _ = scipy.linalg.svd(scores - scores.mean(axis=0), full_matrices=False)
    half = len(values) // 2
    free = 1.0 - np.sum(left[:, :half] ** 2, axis=1)
    found = _squares(left[:, half:] * values[half:]) / np.maximum(free, 0.05)
    relative = np.clip(found / max(float(np.median(found)), 1e-300), *NOISE_RANGE)
    return relative * float(np.median(measured.noise))


def means_of(train: PerturbationData) -> ConditionMeans:
    """Fit the means of the conditions of a data set, in the user's units."""
    return fit_condition_means(condition_means(train), design_of(train), weights_of_conditions(train))


def measure(
    means: Float[np.ndarray, "conditions features"], design: Design, counts: Real[np.ndarray, " conditions"]
) -> Measured:
    """Take differences from the control, with the noise that counts give them."""
    perturbed = design.perturbed
    tested = (design.determined_by_others & (design.num_effects > 1))[perturbed]
    return Measured(
        scores=(means[perturbed] - means[~perturbed].mean(axis=0, dtype=np.float64)).astype(np.float64),
        rows=design.rows[perturbed].astype(np.float64),
        noise=np.mean(counts) / counts[perturbed],
        control_noise=float(np.mean(counts) / np.mean(counts[~perturbed])),
        tested=tested,
    )


def _squares(missed: np.ndarray) -> np.ndarray:
    return np.sum(missed**2, axis=1)


_Candidate = tuple[str, Interactions, np.ndarray]


def _by_kernel(measured: Measured, linear: LinearModel, nothing: Interactions) -> _Candidate:
    axes = nothing.directions
    scores, directions = coordinates(measured.scores)
    measured = measured._replace(scores=scores)
    embedding, unit = linear.effects @ axes.T, float(np.mean(measured.rows[measured.rows != 0] ** 2))
    covariance, length = choose_kernel(measured, embedding, linear.saturation, linear.common_variance, unit)
    embedding = embedding / length
    posterior = fit_process(measured, measured.rows @ embedding, covariance)
    weights = posterior.weights @ (directions @ axes.T)
    x = effective_label(measured.rows, covariance.saturation)
    # the noise of the control's mean is common to all differences
    common = (covariance.common + covariance.ridge * measured.control_noise) * weights.sum(axis=0)
    found = nothing._replace(
        embedding=embedding,
        points=posterior.points,
        weights=covariance.strength * weights,
        effects=x.T @ weights - linear.effects @ axes.T,
        common=common - linear.common @ axes.T,
    )
    return "similar combinations", found, posterior.left_out @ directions


def _by_completion(measured: Measured, linear: LinearModel, nothing: Interactions) -> _Candidate:
    axes = nothing.directions[: len(nothing.pairs)]
    beyond = (measured.scores - linear.predict(measured.rows)) @ axes.T
    paired = np.count_nonzero(measured.rows, axis=1) == 2
    parts = np.nonzero(measured.rows[paired])[1].reshape(-1, 2)
    doses = np.prod(np.take_along_axis(measured.rows[paired], parts, axis=1), axis=1)
    pairs = Pairs(parts, doses, beyond[paired], measured.rows.shape[1])
    judged = np.flatnonzero(measured.tested[paired])  # rows of `pairs`
    left_out = np.array(linear.left_out)
    place = np.flatnonzero(paired[measured.tested])  # rows of `left_out`
    added = np.zeros((len(SHRINKAGES), len(judged), len(axes)))
    folds = np.arange(len(judged)) % _FOLDS
    folds = np.random.default_rng(0).permutation(folds)
    for fold in range(_FOLDS):
        rest = np.delete(np.arange(len(parts)), judged[folds == fold])
        for number, table in enumerate(complete(pairs.part(rest))):
            added[number, folds == fold] = pairs.part(judged[folds == fold]).read(table)
    missed = (measured.scores[measured.tested][place] - left_out[place]) @ axes.T
    best = int(np.argmin(np.sum((missed - added) ** 2, axis=(1, 2))))
    left_out[place] += added[best] @ axes
    return "the table of pairs", nothing._replace(pairs=complete(pairs)[best]), left_out

r"""What a prediction has to beat: samples for a target label from simple rules, each fitted to the training data.

`additive`, `linear_regression`, `latent_additive`, `ridge_additive` and `ridge` take the cells of a source condition
(None: the control) and move every one by the same displacement, in the user's own units; the other rules know no
source. Non-negative data: moved cells may fall below zero; they are clipped only where `floor` is given.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pdae_jax.data.moments import condition_means
from pdae_jax.design.design import design_of
from pdae_jax.design.span import least_squares
from pdae_jax.labels import LabelLike
from pdae_jax.model.condition_means import means_of
from pdae_jax.model.linear import fit_means
from pdae_jax.randomness import make_random
from pdae_jax.types import PerturbationData, once_for_each
from pdae_jax.view.components import spectrum
from pdae_jax.view.lattice import as_measured

# Share of the variance that the principal components of `latent_additive` hold.
PCA_VARIANCE = 0.95


class Task(NamedTuple):
    """Hold what a method is asked for."""

    train: PerturbationData
    label: Float[np.ndarray, " perturbations"]  # the target
    source: str  # training condition whose cells are moved, by methods that move cells


@dataclasses.dataclass(frozen=True)
class Method:
    """A rule that predicts cells, and whose cells it takes: those of the ``source``, the ``control``, or ``all``."""

    sample: Callable  # (key, task, num_samples) -> [num_samples, features]
    cells: str = "source"

    def __call__(
        self,
        key: Array,
        train: PerturbationData,
        label: LabelLike,
        num_samples: int,
        *,
        source: str | None = None,
        floor: float | None = None,
    ) -> Float[np.ndarray, "num_samples features"]:
        """Predict samples for a label.

        Args:
            key: draws the cells, and the noise of methods that have some.
            train: training data.
            label: target.
            num_samples: cells to return; `pool_all` returns fewer where conditions have too few.
            source: condition whose cells are moved; None: the control.
            floor: clip below.
        """
        x = self.sample(key, Task(train, _vector(train, label), source or train.control), num_samples)
        return x if floor is None else np.maximum(x, floor)


def control(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Take control cells unchanged: the perturbations do nothing."""
    return _moved(key, task.train, task.train.control, np.zeros(task.train.num_features), num_samples)


def pool_all(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "number features"]:
    """Take cells of all training conditions, as many of each, also of the control: the label carries no information.

    Every condition has the same share whatever `num_samples`, so that the mean is that of the condition means. The
    control counts as one condition, however many cells it has.

    A copy of a cell would pass for another cell in U forms and permutation tests. So there are at most as many samples
    as half of the conditions can give their share of without one; smaller conditions repeat cells.
    """
    random, conditions = make_random(key), [rows for rows in task.train.rows if len(rows)]
    counts = np.array([len(rows) for rows in conditions])
    sizes = _even_sizes(random, counts, min(num_samples, len(counts) * int(np.quantile(counts, 0.5, method="lower"))))
    rows = [members[_draw(random, len(members), int(size))] for members, size in zip(conditions, sizes, strict=True)]
    return task.train.x[np.concatenate(rows)]


def pseudobulk(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Put every cell at one profile, the control mean plus `additive_shift`: what methods for means alone deliver."""
    train, means = task.train, condition_means(task.train)
    profile = means[design_of(train).control] + additive_shift(train, task.label)
    return np.tile(profile.astype(train.x.dtype), (num_samples, 1))


def additive(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Move source cells by the sum of the single effects, see `additive_shift`, less those of the source's label."""
    shift = additive_shift(task.train, task.label) - additive_shift(task.train, task.source)
    return _moved(key, task.train, task.source, shift, num_samples)


def linear_regression(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Move source cells by least squares with intercept of the training conditions' means on labels.

    Source cells are moved by the predicted mean minus the mean of the source CELLS, so that the samples have the
    mean that the regression predicts. Where labels are collinear: the solution with the smallest slopes.
    """
    train, means = task.train, condition_means(task.train)
    predicted = means.mean(0) + (task.label - train.labels.mean(0, dtype=np.float64)) @ _slopes(train)
    return _moved(key, train, task.source, predicted - means[train.index(task.source)], num_samples)


def latent_additive(
    key: Array, task: Task, num_samples: int, *, latent_dim: int | None = None
) -> Float[np.ndarray, "num_samples features"]:
    r"""Move source cells by additive shifts of the first principal components, fitted to all training conditions.

    With loadings `V` and condition means :math:`\mu_e`, least squares without intercept of the latent differences
    :math:`(\mu_e - \mu_0) V` on the labels gives `W`; a control cell `x` goes to :math:`x + a W V^\top` (from another
    source: by the difference of the labels), which is encode, move, decode with the cell's own PCA residual kept.

    Args:
        key: draws the source cells.
        task: training data, target and source.
        num_samples: cells to return.
        latent_dim: number of components; default as many as hold 95 % of the variance of the pooled training cells,
            each condition with equal weight.
    """
    loadings = principal_components(task.train, latent_dim)  # [features, k]
    # least squares acts on every direction by itself: project the effects on the features onto the components
    shift = (task.label - _vector(task.train, task.source)) @ _effects(task.train) @ loadings @ loadings.T
    return _moved(key, task.train, task.source, shift, num_samples)


def ridge(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Move source cells by the predicted means of the conditions (`condition_means`): where `fit` starts.

    Source cells are moved by the difference of the predicted means of the two labels: the linear model of
    `ridge_additive`, and what similar combinations or the table of pairs say that combinations do beyond it.
    """
    return _by_means(key, task, num_samples, predicted_means(task.train).predict)


def ridge_additive(key: Array, task: Task, num_samples: int) -> Float[np.ndarray, "num_samples features"]:
    """Move source cells by the best linear model of the condition means (`linear`).

    Ridge, gain of combinations and rank are chosen by leaving out training combinations, in closed form.
    """
    return _by_means(key, task, num_samples, linear_model(task.train).predict)


BASELINES: dict[str, Method] = {
    "control": Method(control, cells="control"),
    "pool_all": Method(pool_all, cells="all"),
    "pseudobulk": Method(pseudobulk, cells="all"),
    "additive": Method(additive),
    "linear_regression": Method(linear_regression),
    "latent_additive": Method(latent_additive),
    "ridge_additive": Method(ridge_additive),
    "ridge": Method(ridge),
}


def default_baselines(train: PerturbationData) -> tuple[str, ...]:
    """Name all baselines but `ridge_additive` where it is the same as `ridge`: no interactions were found."""
    same = predicted_means(train).interacts == "nothing"
    return tuple(name for name in BASELINES if not (same and name == "ridge_additive"))


def additive_shift(train: PerturbationData, label: LabelLike) -> Float[np.ndarray, " features"]:
    r"""Sum the single effects :math:`\sum_j \delta_j(a_j)` of a label of any order and dose.

    :math:`\delta_j(a)` is the difference of the means of single `j` and control where `j` was measured alone at dose
    `a`, and `a` times the slope (least squares through the origin over its doses) where it was at other doses only.
    Effects of perturbations never measured alone are the minimum-norm least-squares solution of what the measured
    singles leave of the condition-mean differences: directions of the label that no training condition determines
    contribute nothing.
    """
    target, singles = _vector(train, label), _singles(train)
    shift, rest = singles.effect(target), target[~singles.alone]
    return shift + rest @ _slopes_of_rest(train) if np.any(rest) else shift


# An evaluation asks for many labels of one training set; what does not depend on the label is computed once.
predicted_means = once_for_each(means_of)
linear_model = once_for_each(fit_means)


class _Singles(NamedTuple):
    """The conditions of one perturbation."""

    doses: Float[np.ndarray, "singles perturbations"]
    effects: Float[np.ndarray, "singles features"]  # differences of their means from the control's
    alone: Bool[np.ndarray, " perturbations"]  # those that there are

    def effect(self, label: Float[np.ndarray, " perturbations"]) -> Float[np.ndarray, " features"]:
        """Sum the effects of the perturbations of a label that were measured alone."""
        measured = np.flatnonzero(self.alone & (label != 0))
        return sum((self._at(int(j), float(label[j])) for j in measured), np.zeros(self.effects.shape[1]))

    def _at(self, column: int, dose: float) -> Float[np.ndarray, " features"]:
        doses = self.doses[:, column].astype(np.float64)
        exact = np.isclose(doses, dose, rtol=1e-5, atol=0.0)  # in whatever unit
        if exact.any():
            return self.effects[exact].mean(axis=0)
        rows = np.flatnonzero(doses)
        return dose * (doses[rows] @ self.effects[rows]) / (doses @ doses)


@once_for_each
def _singles(train: PerturbationData) -> _Singles:
    design = design_of(train)
    alone = design.num_effects == 1
    doses = design.labels[alone]
    return _Singles(doses, _differences(train)[alone], (doses != 0).any(axis=0))


@once_for_each
def _slopes_of_rest(train: PerturbationData) -> Float[np.ndarray, "others features"]:
    """Fit by least squares, on the perturbations never measured alone, what the singles leave."""
    singles, labels = _singles(train), train.labels.astype(np.float64)
    left = _differences(train) - np.stack([singles.effect(row) for row in labels])
    return least_squares(labels[:, ~singles.alone], left)


@once_for_each
def _slopes(train: PerturbationData) -> Float[np.ndarray, "perturbations features"]:
    """Fit condition means on labels by least squares with intercept."""
    means = condition_means(train)
    return least_squares(np.column_stack([np.ones(len(means)), train.labels]), means)[1:]


@once_for_each
def _effects(train: PerturbationData) -> Float[np.ndarray, "perturbations features"]:
    """Fit the means' differences from the control on labels by least squares without intercept."""
    return least_squares(train.labels, _differences(train))


def _differences(train: PerturbationData) -> Float[np.ndarray, "conditions features"]:
    """Subtract the control's mean from the condition means."""
    means = condition_means(train)
    return means - means[design_of(train).control]


def principal_components(
    train: PerturbationData, latent_dim: int | None = None
) -> Float[np.ndarray, "features components"]:
    """Find loadings of the first principal components of the training cells, each condition with equal weight."""
    values, vectors = spectrum(train)
    if latent_dim is None:
        share = np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)
        latent_dim = int(np.searchsorted(share, PCA_VARIANCE)) + 1
    if latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim}, but it must be at least 1.")
    return vectors[:, :latent_dim]


def _by_means(key: Array, task: Task, num_samples: int, predict: Callable) -> np.ndarray:
    row = design_of(task.train).row
    shift = predict(row(task.label)) - predict(row(_vector(task.train, task.source)))
    return _moved(key, task.train, task.source, shift, num_samples)


def _moved(key: Array, train: PerturbationData, source: str, shift: np.ndarray, num_samples: int) -> np.ndarray:
    """Move cells of the source; of counts to whole numbers again, as the model's predictions are."""
    rows = train.rows[train.index(source)]
    rows = rows[_draw(make_random(key), len(rows), num_samples)]
    return as_measured(key, train.x[rows] + shift, train.sizes(rows)).astype(train.x.dtype)


def _draw(random: np.random.Generator, population: int, size: int) -> Int[np.ndarray, " size"]:
    """Draw indices without replacement as long as they last, then all over again."""
    rounds = [random.permutation(population) for _ in range(-(-size // population))]
    return np.concatenate([*rounds, np.zeros(0, dtype=np.int64)])[:size]


def _even_sizes(
    random: np.random.Generator, counts: Int[np.ndarray, " groups"], total: int
) -> Int[np.ndarray, " groups"]:
    """Share `total` as equally as can be; the largest groups get what does not divide."""
    shuffled = random.permutation(len(counts))
    smallest_first = shuffled[np.argsort(counts[shuffled], kind="stable")]
    each, rest = divmod(total, len(counts))
    sizes = np.full(len(counts), each)
    sizes[smallest_first[len(counts) - rest :]] += 1
    return sizes


def _vector(train: PerturbationData, label: LabelLike) -> Float[np.ndarray, " perturbations"]:
    return train.label(label).astype(np.float64)

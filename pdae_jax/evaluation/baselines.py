r"""What a prediction has to beat: samples for a target label from simple rules, each fitted to the training data.

`additive`, `linear_regression`, `latent_additive` and `ridge` take the cells of a source condition (None: the control)
and move every one by the same displacement, in the user's own units; the other rules know no source. Non-negative
data: moved cells may fall below zero; they are clipped only where `floor` is given.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.data.span import least_squares
from pdae_jax.labels import LabelLike
from pdae_jax.model import linear
from pdae_jax.prediction.samples import generator
from pdae_jax.types import PerturbationData

# Share of the variance that the principal components of `latent_additive` hold.
PCA_VARIANCE = 0.95


def control(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """Control cells unchanged: the perturbations do nothing."""
    return _moved(key, train, train.control, np.zeros(train.num_features), num_samples, floor)


def pool_all(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """Cells of all training conditions: the label carries no information.

    As equally many of each condition as there are distinct ones to draw: a copy would pass for another cell in U forms
    and permutation tests. Of more samples than cells, every cell comes equally often.
    """
    random = generator(key)
    rounds, rest = divmod(num_samples, train.num_cells)
    sizes = rounds * train.counts + _even_sizes(random, train.counts, rest)
    rows = [
        members[_draw(random, len(members), int(size))]
        for members, size in zip(_rows_by_condition(train), sizes, strict=True)
    ]
    return _clipped(train.x[np.concatenate(rows)], floor)


def pseudobulk(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """Every cell at one profile, the control mean plus `additive_shift`: what methods for means alone deliver."""
    means = condition_means(train)
    profile = means[train.index(train.control)] + additive_shift(train, label)
    return _clipped(np.tile(profile.astype(train.x.dtype), (num_samples, 1)), floor)


def additive(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """Source cells moved by the sum of the single effects, see `additive_shift`, less those of the source's label."""
    start = source or train.control
    shift = additive_shift(train, label) - additive_shift(train, start)
    return _moved(key, train, start, shift, num_samples, floor)


def linear_regression(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """Least squares with intercept of condition means on labels, over all training conditions.

    Source cells are moved by the predicted mean minus the mean of the source CELLS, so that the samples have the
    mean that the regression predicts. Where labels are collinear: the solution with the smallest slopes.
    """
    means = condition_means(train)
    predicted = means.mean(0) + (_vector(train, label) - train.labels.mean(0, dtype=np.float64)) @ _slopes(train)
    start = source or train.control
    return _moved(key, train, start, predicted - means[train.index(start)], num_samples, floor)


def latent_additive(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    latent_dim: int | None = None,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    r"""Additive shifts in the space of the first principal components, fitted to all training conditions.

    With loadings `V` and condition means :math:`\mu_e`, least squares without intercept of the latent differences
    :math:`(\mu_e - \mu_0) V` on the labels gives `W`; a control cell `x` goes to :math:`x + a W V^\top` (from another
    source: by the difference of the labels), which is encode, move, decode with the cell's own PCA residual kept.

    Args:
        key: draws the source cells.
        train: training data.
        label: target.
        num_samples: cells to return.
        latent_dim: number of components; default as many as hold 95 % of the variance of the pooled training cells,
            each condition with equal weight.
        source: condition whose cells are moved; None: the control.
        floor: clip below.
    """
    loadings = principal_components(train, latent_dim)  # [features, k]
    start = source or train.control
    # least squares acts on every direction by itself: project the effects on the features onto the components
    shift = (_vector(train, label) - _vector(train, start)) @ _effects(train) @ loadings @ loadings.T
    return _moved(key, train, start, shift, num_samples, floor)


def ridge(
    key: Array,
    train: PerturbationData,
    label: LabelLike,
    num_samples: int,
    *,
    source: str | None = None,
    floor: float | None = None,
) -> Float[np.ndarray, "num_samples features"]:
    """The best linear model of the condition means (`linear`): where `fit` starts.

    Source cells are moved by the difference of the predicted means of the two labels. Ridge, gain of combinations and
    rank are chosen by leaving out training combinations, in closed form.
    """
    start, model = source or train.control, linear_model(train)
    shift = model.predict(_vector(train, label)) - model.predict(_vector(train, start))
    return _moved(key, train, start, shift, num_samples, floor)


#: Name -> ``(key, train, label, num_samples, *, source=None, floor=None) -> samples [num_samples, features]``.
BASELINES: dict[str, Callable] = {
    "control": control,
    "pool_all": pool_all,
    "pseudobulk": pseudobulk,
    "additive": additive,
    "linear_regression": linear_regression,
    "latent_additive": latent_additive,
    "ridge": ridge,
}


def additive_shift(train: PerturbationData, label: LabelLike) -> Float[np.ndarray, " features"]:
    r"""Sum of single effects :math:`\sum_j \delta_j(a_j)` of a label of any order and dose.

    :math:`\delta_j(a)` is the difference of the means of single `j` and control where `j` was measured alone at dose
    `a`, and `a` times the slope (least squares through the origin over its doses) where it was at other doses only.
    Effects of perturbations never measured alone are the minimum-norm least-squares solution of what the measured
    singles leave of the condition-mean differences: directions of the label that no training condition determines
    contribute nothing.
    """
    target, labels = _vector(train, label), train.labels.astype(np.float64)
    means = condition_means(train)
    differences = means - means[train.index(train.control)]
    is_single = np.count_nonzero(labels, axis=1) == 1
    alone = (labels[is_single] != 0).any(axis=0)  # [perturbations]

    def single_effects(vector: np.ndarray) -> np.ndarray:
        effects = [
            _single_effect(labels[is_single, j], differences[is_single], vector[j])
            for j in np.flatnonzero(alone & (vector != 0))
        ]
        return np.sum(effects, axis=0) if effects else np.zeros(train.num_features)

    shift = single_effects(target)
    if np.any(target[~alone]):
        rest = differences - np.stack([single_effects(row) for row in labels])
        shift = shift + target[~alone] @ least_squares(labels[:, ~alone], rest)
    return shift


def _single_effect(doses: np.ndarray, differences: np.ndarray, dose: float) -> np.ndarray:
    exact = np.isclose(doses, dose)
    if exact.any():
        return differences[exact].mean(axis=0)
    return dose * (doses @ differences) / (doses @ doses)  # conditions of other singles have dose 0 here


# An evaluation asks for many labels of one training set; what does not depend on the label is computed once. The cache
# goes by identity (PerturbationData is read-only) and holds the latest training set only.
condition_means = functools.lru_cache(maxsize=1)(linear.condition_means)
linear_model = functools.lru_cache(maxsize=1)(linear.fit_means)


@functools.lru_cache(maxsize=1)
def _slopes(train: PerturbationData) -> Float[np.ndarray, "perturbations features"]:
    """Least squares with intercept of condition means on labels."""
    means = condition_means(train)
    return least_squares(np.column_stack([np.ones(len(means)), train.labels]), means)[1:]


@functools.lru_cache(maxsize=1)
def _effects(train: PerturbationData) -> Float[np.ndarray, "perturbations features"]:
    """Least squares without intercept of the means' differences from the control on labels."""
    means = condition_means(train)
    differences = means - means[train.index(train.control)]
    return least_squares(train.labels, differences)


@functools.lru_cache(maxsize=1)
def _spectrum(train: PerturbationData) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors of the covariance of the pooled, equally weighted conditions."""
    centre = condition_means(train).mean(axis=0)
    blocks = (train.x[rows] - centre for rows in _rows_by_condition(train))
    covariance = sum(block.T @ block / len(block) for block in blocks) / train.num_conditions
    values, vectors = np.linalg.eigh(covariance)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def principal_components(
    train: PerturbationData, latent_dim: int | None = None
) -> Float[np.ndarray, "features components"]:
    """Loadings of the first principal components of the training cells, each condition with equal weight."""
    values, vectors = _spectrum(train)
    if latent_dim is None:
        share = np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)
        latent_dim = int(np.searchsorted(share, PCA_VARIANCE)) + 1
    if latent_dim < 1:
        raise ValueError(f"latent_dim={latent_dim}, but it must be at least 1.")
    return vectors[:, :latent_dim]


def _moved(
    key: Array, train: PerturbationData, source: str, shift: np.ndarray, num_samples: int, floor: float | None
) -> np.ndarray:
    cells = train.cells(source)
    moved = cells[_draw(generator(key), len(cells), num_samples)] + shift
    return _clipped(moved.astype(train.x.dtype), floor)


def _draw(random: np.random.Generator, population: int, size: int) -> Int[np.ndarray, " size"]:
    """Indices drawn without replacement as long as they last, then all over again."""
    rounds = [random.permutation(population) for _ in range(-(-size // population))]
    return np.concatenate([*rounds, np.zeros(0, dtype=np.int64)])[:size]


def _even_sizes(
    random: np.random.Generator, counts: Int[np.ndarray, " groups"], total: int
) -> Int[np.ndarray, " groups"]:
    """Sizes that sum to `total`, as equal as they can be without exceeding the counts."""
    sizes, left = np.zeros_like(counts), total
    shuffled = random.permutation(len(counts))  # which of equal groups get what does not divide
    smallest_first = shuffled[np.argsort(counts[shuffled], kind="stable")]
    for groups, row in zip(range(len(counts), 0, -1), smallest_first, strict=True):
        sizes[row] = min(counts[row], left // groups)
        left -= sizes[row]
    return sizes


def _clipped(x: np.ndarray, floor: float | None) -> np.ndarray:
    return x if floor is None else np.maximum(x, floor)


def _vector(train: PerturbationData, label: LabelLike) -> Float[np.ndarray, " perturbations"]:
    return train.label(label).astype(np.float64)


def _rows_by_condition(train: PerturbationData) -> list[np.ndarray]:
    order = np.argsort(train.condition_index, kind="stable")
    return np.split(order, np.cumsum(train.counts)[:-1])

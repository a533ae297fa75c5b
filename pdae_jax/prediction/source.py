"""Whose cells are translated: those of training conditions, or new ones."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.checks import aligned
from pdae_jax.data.counts import is_counts, size_factors
from pdae_jax.data.observations import check_values, read_observations
from pdae_jax.labels import as_name
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData

#: ``"control"``, a training condition, ``"all"``, ``"nearest"``; or new cells as an array, a frame, AnnData or
#: `PerturbationData`.
SourceLike = Any

NEW_CELLS = "new cells"


class Source(NamedTuple):
    """Cells to be translated, and their labels."""

    name: str  # a training condition, ``all``, or ``new cells``
    data: PerturbationData  # the training data, or the new cells in its columns
    rows: Int[np.ndarray, " cells"]  # of the data
    condition: str  # the training condition that stands for it in a verdict: the control, for cells of several

    def labels(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "_ perturbations"]:
        """The label of each row of the data, one row where all are of one condition."""
        conditions = self.data.condition_index[rows]
        return self.data.labels[conditions[:1] if np.all(conditions == conditions[0]) else conditions]

    def size_factors(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " _n"]:
        """The size factor of each row of the data, empty where they are not known as counts."""
        sizes = self.data.size_factors
        return np.zeros(0, np.float32) if sizes is None else sizes[rows]


def resolve_source(fitted: Fitted | Ensemble, label: Float[np.ndarray, " perturbations"], source: SourceLike) -> Source:
    """The cells that a source stands for.

    The label itself is never its own ``"nearest"`` source: a prediction is not a reconstruction.

    Raises:
        KeyError: an unknown condition, or a perturbation of new cells that was not trained on.
        ValueError: new cells with other features than the training data, or none.
    """
    train = fitted.train
    if isinstance(source, Real):
        source = as_name(source, train.conditions)
    if not isinstance(source, str):
        data = new_cells(source, train)
        return Source(NEW_CELLS, data, np.arange(data.num_cells), train.control)
    if source == "all":
        return Source("all", train, np.arange(train.num_cells), train.control)
    if source == "nearest":
        distance = np.linalg.norm(fitted.members[0].shift(train.labels, label), axis=1)
        distance[np.all(train.labels == label, axis=1)] = np.inf
        source = train.conditions[int(np.argmin(distance))]
    name = train.control if source == "control" else source
    row = train.index(name)
    return Source(train.conditions[row], train, train.rows[row], train.conditions[row])


def new_cells(cells: Any, train: PerturbationData) -> PerturbationData:
    """Cells of another data set in the columns of the training data; unlabelled ones count as control cells.

    Args:
        cells: an array ``[cells, features]`` in the order of the training features; a data frame or AnnData with their
            names; or `PerturbationData`, whose labels are kept.
        train: training data.
    """
    if isinstance(cells, PerturbationData):
        return aligned(cells, train, "source")
    names = getattr(cells, "var_names", getattr(cells, "columns", None))
    if names is not None:
        known = [str(name) for name in names]
        missing = [name for name in train.features if name not in known]
        if missing:
            raise ValueError(
                f"The source cells lack {len(missing)} of the {train.num_features} training features: "
                f"{first_names(missing)}; they have {first_names(known)}. Pass cells with all of them."
            )
        cells = cells[:, list(train.features)].X if hasattr(cells, "var_names") else cells[list(train.features)]
    x = read_observations(cells)
    if x.shape[1] != train.num_features or len(x) == 0:
        raise ValueError(
            f"Source cells of shape {x.shape}, but the model was fitted on [cells, {train.num_features}] "
            f"({first_names(train.features)}). Pass the same features in the same order, and at least one cell."
        )
    check_values(x, train.features, may_be_constant=True)
    if train.size_factors is not None and is_counts(x):
        raise ValueError(
            "The source cells are raw counts, and the training data log-normalised ones. Read them with "
            "pdae_jax.from_anndata(..., normalize=True, like=train)."
        )
    return PerturbationData(
        x=x,
        condition_index=np.zeros(len(x), np.int32),
        labels=np.zeros((1, train.num_perturbations), np.float32),
        conditions=(train.control,),
        perturbations=train.perturbations,
        features=train.features,
        control=train.control,
        separator=train.separator,
        size_factors=None if train.size_factors is None else size_factors(x),
    )

"""Whose cells are translated: those of training conditions, or new ones."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.data.anndata_files import Place, open_anndata
from pdae_jax.data.checks import aligned
from pdae_jax.data.feature_columns import columns_of, make_selection, measured_columns
from pdae_jax.data.normalisation import Sized
from pdae_jax.data.observations import check_values, read_observations, some_rows
from pdae_jax.data.scale import COUNTS, RAW, found_scale
from pdae_jax.data.tables import find_columns
from pdae_jax.data.values import make_treatment, read_values
from pdae_jax.labels import as_name
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData, Reading

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
        """Look up the label of each row of the data, one row where all are of one condition."""
        conditions = self.data.condition_index[rows]
        return self.data.labels[conditions[:1] if np.all(conditions == conditions[0]) else conditions]


def resolve_source(fitted: Fitted | Ensemble, label: Float[np.ndarray, " perturbations"], source: SourceLike) -> Source:
    """Find the cells that a source stands for.

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
        distance = np.linalg.norm(fitted.members[0].shift(fitted.design.labels, label), axis=1)
        distance[fitted.design.find(label)] = np.inf
        source = train.conditions[int(np.argmin(distance))]
    name = train.control if source == "control" else source
    row = train.index(name)
    return Source(train.conditions[row], train, train.rows[row], train.conditions[row])


def new_cells(cells: Any, train: PerturbationData) -> PerturbationData:
    """Bring cells of another data set into the columns of the training data; unlabelled ones count as control cells.

    Args:
        cells: an array ``[cells, features]`` in the order of the training features; a data frame or AnnData with their
            names; or `PerturbationData`, whose labels are kept.
        train: training data.
    """
    if isinstance(cells, PerturbationData):
        return aligned(cells, train, "source")
    (x, sizes), reading = _read_cells(cells, train)
    assert isinstance(x, np.ndarray)
    check_values(x, train.features, may_be_constant=True)
    return PerturbationData(
        x=x,
        condition_index=np.zeros(len(x), np.int32),
        labels=np.zeros((1, train.num_perturbations), np.float32),
        conditions=(train.control,),
        perturbations=train.perturbations,
        features=train.features,
        control=train.control,
        separator=train.separator,
        size_factors=None if train.size_factors is None else sizes,
        reading=reading,
    )


def _read_cells(cells: Any, train: PerturbationData) -> tuple[Sized, Reading]:
    """Read values in the training features. Those of a table or AnnData are treated as the training data were."""
    names = getattr(cells, "var_names", getattr(cells, "columns", None))
    if names is None:
        x = read_observations(cells)
        if x.shape[1] != train.num_features:
            raise ValueError(
                f"Source cells of shape {x.shape}, but the model was fitted on [cells, {train.num_features}] "
                f"({first_names(train.features)}). Pass the same features in the same order, and at least one cell."
            )
        return read_values(x, train.features, None, make_treatment(like=train, as_file=False))
    if not hasattr(cells, "var_names"):
        _check_features([str(name) for name in names], train)
        found = measured_columns(cells, np.zeros(len(cells), int), make_selection(like=train), counts=True)
        return _as_trained(*columns_of(cells, found), train)
    place = make_treatment(place=Place(), like=train).place
    assert place is not None
    with open_anndata(cells, [], place) as table:
        _check_features(table.features, train)
        columns = find_columns(train.features, table.features, "var_names")
        return _as_trained(table.matrix, columns, train, place)


def _check_features(known: Sequence[str], train: PerturbationData) -> None:
    there = set(known)
    missing = [name for name in train.features if name not in there]
    if missing:
        raise ValueError(
            f"The source cells lack {len(missing)} of the {train.num_features} training features: "
            f"{first_names(missing)}; they have {first_names(known)}. Pass cells with all of them."
        )


def _as_trained(
    matrix: Any, columns: list[int] | None, train: PerturbationData, place: Place | None = None
) -> tuple[Sized, Reading]:
    """Normalise raw counts where those of the training data were."""
    known = train.reading
    normalised = known is not None and known.normalize
    raw = normalised and found_scale(read_observations(some_rows(matrix))).kind in (COUNTS, RAW)
    return read_values(matrix, train.features, columns, make_treatment(raw, place=place, like=train))

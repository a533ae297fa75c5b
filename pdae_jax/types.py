"""The data contract: what every module passes to the next, with a shape on every field."""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.cells import StoredCells, blocks
from pdae_jax.labels import LabelLike, as_name, count_perturbations, format_label, parse_label
from pdae_jax.spelling import nearest_names, unquoted

#: Of NumPy or of JAX: what numerical functions take from users.
AnyArray = Array | np.ndarray
#: A pandas DataFrame. `import pdae_jax` does not import pandas, so the type is for readers and checkers only.
if TYPE_CHECKING:
    from pandas import DataFrame as Table
else:
    Table = Any
#: Parameters of a network: a pytree of arrays, as flax has them.
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The kind of the values of a file or table, and what was done to them: to show, and for cells that join later.

    It is no part of the identity of a data set (`runs.store.fingerprint`).
    """

    layer: str | None = None  # of an AnnData, ``"X"`` for X; None: of something without layers
    obsm: str | None = None  # key of an AnnData's obsm instead
    gene_symbols: str | None = None  # column of an AnnData's var with the names of features
    normalize: bool = False  # raw counts became log(1 + counts per 10,000)
    arcsinh: float | None = None  # cofactor: values became arcsinh(x / cofactor)
    compensate: bool | None = None  # spillover of cytometry was taken off; None: nothing was said
    scale: str = "unknown"  # of the values as they were found, one of `pdae_jax.data.scale.SCALES`
    total: float | None = None  # to which cells were normalised, where that was found
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # columns that are no features, and why
    # conditions with a dose of 0, as they are written -> what they were read as
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    controls: Mapping[str, int] = dataclasses.field(default_factory=dict)  # names that are the control, with cells
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)  # columns of cells not used, and their values
    # condition -> train, validation or test, where a column says so
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class PerturbationData:
    """Cells measured under named conditions, each condition with a perturbation label.

    Built by `pdae_jax.from_arrays`, `from_anndata` or `simulate`, which validate. Its arrays are read-only, since what
    is computed of them is kept: an array that can still be written to is copied.
    """

    # observations, in the user's own units; rows of cells that stay in files are taken as those of an array
    x: Float[np.ndarray, "cells features"] | StoredCells
    condition_index: Int[np.ndarray, " cells"]  # row of `labels` and `conditions`, per cell
    labels: Float[np.ndarray, "conditions perturbations"]  # doses; control = the zero row
    conditions: tuple[str, ...]  # names, unique
    perturbations: tuple[str, ...]  # names of the label columns, unique
    features: tuple[str, ...]  # names of the columns of x, unique
    control: str = "control"  # name of the condition with the zero label
    separator: str = "+"  # joins perturbation names in a condition name
    size_factors: Float[np.ndarray, " cells"] | None = None  # of log-normalised counts: counts are (e^x - 1) times it
    strata: tuple[str, ...] = ()  # perturbations that are cell types, lines or donors, and make no combination
    reading: Reading | None = None  # how the values were read; None: not known, as in runs of older versions

    def __post_init__(self):
        for name in ("x", "condition_index", "labels", "size_factors"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray) and value.flags.writeable:
                object.__setattr__(self, name, read_only(value.copy()))

    @property
    def num_cells(self) -> int:
        return self.x.shape[0]

    @property
    def num_features(self) -> int:
        return self.x.shape[1]

    @property
    def num_conditions(self) -> int:
        return len(self.conditions)

    @property
    def num_perturbations(self) -> int:
        return len(self.perturbations)

    @functools.cached_property
    def counts(self) -> Int[np.ndarray, " conditions"]:
        """Cells per condition."""
        return read_only(np.bincount(self.condition_index, minlength=self.num_conditions))

    @functools.cached_property
    def rows(self) -> list[Int[np.ndarray, " n"]]:
        """Rows of the cells of each condition."""
        order = read_only(np.argsort(self.condition_index, kind="stable"))
        return np.split(order, np.cumsum(self.counts)[:-1])

    @functools.cached_property
    def orders(self) -> Int[np.ndarray, " conditions"]:
        """Number of perturbations of each condition; strata are none."""
        return read_only(count_perturbations(self.labels, self.perturbations, self.strata))

    def index(self, condition: LabelLike) -> int:
        """Return the row of a condition, given by its name, by another way to write it (``"B+A"``), or by its label.

        Raises:
            KeyError: there is none; the message has the nearest names.
            ValueError: see `parse_label`.
        """
        condition = self._as_written(condition)
        name = condition.strip() if isinstance(condition, str) else None
        try:
            row = self._row_of(condition)
        except KeyError:
            if name is None:
                raise
            raise KeyError(self._no_condition(name)) from None
        if row is None:
            raise KeyError(self._no_condition(name or self.name(self.label(condition))))
        return row

    def _row_of(self, condition: LabelLike) -> int | None:
        """The row of a condition; None where a label of known perturbations has none."""
        condition = self._as_written(condition)
        name = condition.strip() if isinstance(condition, str) else None
        if name in self.conditions:
            return self.conditions.index(name)
        rows = np.flatnonzero((self.labels == self.label(condition)).all(axis=1))
        return int(rows[0]) if len(rows) else None

    def _as_written(self, condition: LabelLike) -> LabelLike:
        """The condition or label; a number is a name."""
        return as_name(condition, self.conditions) if isinstance(condition, Real | str) else condition

    def has(self, condition: LabelLike) -> bool:
        """Tell whether there is such a condition, however it is written."""
        try:
            # not by `index`: of thousands of conditions, the nearest names of each that is missing would take minutes
            return self._row_of(condition) is not None
        except (KeyError, ValueError):
            return False

    def name(self, label: Float[np.ndarray, " perturbations"]) -> str:
        """Return a label as a string, ``"A+B:0.5"``."""
        return format_label(label, self.perturbations, control=self.control, separator=self.separator)

    def _no_condition(self, name: str) -> str:
        near = unquoted(name, self.has) or nearest_names(name, self.conditions)
        return f"No condition {name!r} in this data; {near}. Pass one of data.conditions."

    def cells(self, condition: LabelLike) -> Float[np.ndarray, "n features"]:
        """Return the observations of one condition."""
        return self.x[self.rows[self.index(condition)]]

    def blocks(self, rows: Int[np.ndarray, " n"] | None = None) -> Iterator[Float[np.ndarray, "_ features"]]:
        """Yield the observations of all cells, or of some rows, a few thousand at a time."""
        return blocks(self.x, rows)

    def select(self, conditions: Sequence[LabelLike]) -> "PerturbationData":
        """Keep the same data with these conditions only, in this order; label columns stay."""
        rows = np.array(list(dict.fromkeys(self.index(name) for name in conditions)), dtype=np.int64)
        position = np.full(self.num_conditions, -1, dtype=np.int32)
        position[rows] = np.arange(len(rows), dtype=np.int32)
        part = self.take(np.flatnonzero(position[self.condition_index] >= 0))
        return dataclasses.replace(
            part,
            condition_index=read_only(position[part.condition_index]),
            labels=read_only(self.labels[rows]),
            conditions=tuple(self.conditions[row] for row in rows),
        )

    def take(self, cells: Int[np.ndarray, " kept"]) -> "PerturbationData":
        """Return the same data with these rows of cells only; conditions stay, also those without a cell."""
        x = self.x.take(cells) if isinstance(self.x, StoredCells) else read_only(self.x[cells])
        index = read_only(self.condition_index[cells])
        return dataclasses.replace(self, x=x, condition_index=index, size_factors=self.sizes(cells))

    def sizes(self, cells: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."] | None:
        """Give the size factors of these rows of cells; None where the data are not known as counts."""
        return None if self.size_factors is None else self.size_factors[cells]

    def label(self, spec: LabelLike) -> Float[np.ndarray, " perturbations"]:
        """Return a label as a vector; see `parse_label`."""
        spec = self._as_written(spec)
        if isinstance(spec, str) and spec.strip() in self.conditions:
            return self.labels[self.conditions.index(spec.strip())]
        return parse_label(spec, self.perturbations, control=self.control, separator=self.separator)

    def __repr__(self) -> str:
        return (
            f"PerturbationData({self.num_cells} cells, {self.num_features} features, "
            f"{self.num_conditions} conditions, {self.num_perturbations} perturbations, control={self.control!r})"
        )


def read_only(array: np.ndarray) -> np.ndarray:
    """Close an array to writing that was just made and that nobody else holds."""
    array.setflags(write=False)
    return array


Owner = TypeVar("Owner")
T = TypeVar("T")


def once_for_each(function: Callable[[Owner], T]) -> Callable[[Owner], T]:
    """Compute a function of a data set or a model once for each as long as that lives.

    It goes by identity: both are read-only. The result must not hold them, or they would never be freed.
    """
    results: weakref.WeakKeyDictionary[Owner, T] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(owner: Owner) -> T:
        if owner not in results:
            results[owner] = function(owner)
        return results[owner]

    return remembered

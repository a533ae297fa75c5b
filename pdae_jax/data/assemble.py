"""From a table and what is asked of it to a data set: conditions and values read, and put together.

The doors of `pdae_jax.data.load` and `pdae_jax.data.own_data` make one `ReadOptions` of their arguments; only that
travels inward.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pdae_jax.cells import StoredCells
from pdae_jax.data.anndata_files import open_anndata
from pdae_jax.data.condition_columns import read_conditions
from pdae_jax.data.conditions import Conditions, drop_small, drop_unused
from pdae_jax.data.doubtful_columns import warn_of_names
from pdae_jax.data.feature_columns import (
    Selection,
    asked_for,
    columns_of,
    columns_of_origin,
    matching,
    measured_columns,
    varying_names,
)
from pdae_jax.data.highly_variable import highly_variable
from pdae_jax.data.normalisation import Sized
from pdae_jax.data.notation import Notation, with_found_controls
from pdae_jax.data.observations import check_frame, check_values, constant_columns, read_features
from pdae_jax.data.pooled_control import MOST_VALUES, warn_of_pooled_control
from pdae_jax.data.scale import COUNTS
from pdae_jax.data.stored import content_of, store_cells, varying_columns
from pdae_jax.data.tables import Table, find_columns
from pdae_jax.data.values import Treatment, first_look, read_values
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData, Reading, read_only


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of a table that say something of each cell; among the others are the features."""

    conditions: tuple[str, ...]  # names of conditions, or of perturbations and strata, one column each
    doses: tuple[str | None, ...] = ()  # one for all, or one for each column of names, None where those have no dose
    totals: str | None = None  # counts of each cell

    @property
    def labels(self) -> list[str]:
        """Those of names and of doses, in this order."""
        return [*self.conditions, *(name for name in self.doses if name is not None)]

    @property
    def used(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.labels, *([] if self.totals is None else [self.totals])]))


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """All that a caller says of a table or file."""

    columns: Columns
    notation: Notation  # how conditions are written
    treatment: Treatment  # what is done to values, and the data that they join
    selection: Selection  # of features
    min_cells: int | None = None  # conditions with fewer are dropped; None: all must have 2


def conditions_of(frame: Any, options: ReadOptions) -> tuple[Conditions, Notation]:
    """Read the conditions of a table that has the columns `Columns.labels`, and find the controls among their names."""
    columns = options.columns
    labelled = _columns(frame, columns.labels)
    texts = itertools.chain.from_iterable(labelled.iloc[:, column] for column in range(len(columns.conditions)))
    notation = with_found_controls(options.notation, texts)
    return read_conditions(labelled, columns.doses, notation), notation


def assemble_frame(frame: Any, options: ReadOptions) -> PerturbationData:
    """Read a data frame with one row a cell; see `pdae_jax.from_frame`."""
    check_frame(frame)
    columns, selection = options.columns, options.selection
    known = [str(name) for name in frame.columns]
    find_columns(columns.used, known, "the frame")
    rest = frame.iloc[:, [column for column, name in enumerate(known) if name not in columns.used]]
    if selection.features is not None:  # what is misspelt is said first
        asked = asked_for(selection, [str(name) for name in rest.columns], "the frame")
        selection = selection._replace(features=None if asked is None else tuple(asked))
    table, notation = conditions_of(frame, options)
    counted = options.treatment.normalize and columns.totals is None
    found = measured_columns(rest, table.index, selection, counts=counted)
    x, places = columns_of(rest, found)
    treatment = _with_totals(options, frame)
    observed, reading = read_values(x, found.features, places, treatment)
    others = {str(name): rest[name].nunique() for name in rest if str(name) not in found.features}
    reading = dataclasses.replace(reading, left_out=found.left_out, others=others)
    origin = dict(_columns(frame, columns.labels[len(columns.conditions) :]).items())
    origin |= columns_of_origin(rest, found.features)
    warn_of_pooled_control(observed.x, table, origin, notation.control)
    return assemble(observed, table, found.features, notation, options.min_cells, reading)


def assemble_anndata(source: Any, options: ReadOptions, store: str | Path | None = None) -> PerturbationData:
    """Read an AnnData, an .h5ad file or a .zarr folder; see `pdae_jax.from_anndata`."""
    columns, selection, place = options.columns, options.selection, options.treatment.place
    assert place is not None
    with open_anndata(source, columns.used, place) as table:
        # what is misspelt is said before anything is read
        asked = asked_for(selection, table.features, "var_names") or table.features
        if selection.features is None:
            warn_of_names(asked)
        treatment = _with_totals(options, table.obs)
        conditions, notation = conditions_of(table.obs, options)
        names = _chosen(table, asked, conditions, selection, store)
        may_be_constant = selection.drop_constant or treatment.like is not None
        observed, reading = _read_cells(source, table, names, treatment, store, may_be_constant)
        if store is not None and selection.drop_constant:
            observed, names = _without_constant(observed, names)
        left_out = dict.fromkeys(matching(selection.exclude, table.features, "var_names"), "excluded")
        if selection.highly_variable is None:
            left_out |= dict.fromkeys(sorted(set(asked) - set(names)), "the same in all cells")
        reading = dataclasses.replace(reading, left_out=left_out, others=table.others)
        origin = dict(_columns(table.obs, columns.labels[len(columns.conditions) :]).items())
        origin |= {name: table.column(name) for name, number in table.others.items() if 1 < number <= MOST_VALUES}
        warn_of_pooled_control(observed.x, conditions, origin, notation.control)
        return assemble(observed, conditions, names, notation, options.min_cells, reading)


def assemble(
    observed: Sized,
    table: Conditions,
    features: Iterable[str] | None,
    notation: Notation,
    min_cells: int | None,
    reading: Reading,
) -> PerturbationData:
    """Check what concerns cells and features, and put the parts together.

    Args:
        observed: values of all cells, and of counts their size factors.
        table: the conditions of all cells.
        features: names of the columns of the values; ``x0, x1, ...`` when None.
        notation: how conditions are written.
        min_cells: conditions with fewer cells are dropped; None: all must have 2.
        reading: what was found of the values.

    Raises:
        ValueError: see `drop_small` and `check_values`.
    """
    x, sizes = observed
    names = read_features(features, x.shape[1])
    table, kept = drop_small(table, min_cells, notation.control)
    if notation.perturbations is None:
        table = drop_unused(table)
    if isinstance(x, StoredCells):  # checked as they were read
        x = x.take(kept)
    else:
        x = x[kept]
        check_values(x, names, may_be_constant=not notation.needs_control)
    data = PerturbationData(
        x=read_only(x) if isinstance(x, np.ndarray) else x,
        condition_index=table.index,
        labels=table.labels,
        conditions=table.names,
        perturbations=table.perturbations,
        features=names,
        control=notation.control,
        separator=notation.separator,
        size_factors=None if sizes is None else sizes[kept],
        strata=tuple(name for name in table.perturbations if name in (*table.strata, *notation.strata)),
        reading=dataclasses.replace(reading, absent=dict(table.absent), controls=dict(table.controls)),
    )
    _log_data(data)
    return data


def _columns(frame: Any, names: Sequence[str]) -> Any:
    return frame.iloc[:, find_columns(names, [str(name) for name in frame.columns], "the frame")]


def _with_totals(options: ReadOptions, frame: Any) -> Treatment:
    totals = options.columns.totals
    return options.treatment.with_totals(None if totals is None else _columns(frame, [totals]).iloc[:, 0])


def _chosen(
    table: Table, asked: list[str], conditions: Conditions, selection: Selection, store: str | Path | None
) -> list[str]:
    """Choose among the features that are asked for, before any are read as a whole."""
    if selection.highly_variable is not None:
        return highly_variable(table, asked, conditions, selection.highly_variable)
    if selection.drop_constant and selection.features is None and store is None:
        varying = dict(zip(table.features, ~constant_columns(table.matrix), strict=True))
        return varying_names(asked, np.array([varying[name] for name in asked]))
    return asked


def _read_cells(
    source: Any,
    table: Table,
    names: list[str],
    treatment: Treatment,
    store: str | Path | None,
    may_be_constant: bool,
) -> tuple[Sized, Reading]:
    """Read some features of a table, into memory or the folder of a store, and say what the values were found to be."""
    columns = None if names == table.features else find_columns(names, table.features, "var_names")
    if store is None:
        return read_values(table.matrix, names, columns, treatment)
    reading = first_look(table.matrix, names, columns, treatment)
    observed = store_cells(
        *(store, table.matrix, names, columns, treatment, content_of(source, str(treatment.place))),
        are_counts=reading.scale == COUNTS,
        may_be_constant=may_be_constant,
    )
    return observed, reading


def _without_constant(observed: Sized, names: list[str]) -> tuple[Sized, list[str]]:
    """Leave out features that are the same in all cells, of cells in files; also returns the names of the others."""
    assert isinstance(observed.x, StoredCells)
    varying = varying_columns(observed.x)
    kept = varying_names(names, varying)
    if len(kept) == len(names):
        return observed, names
    return observed._replace(x=observed.x.with_columns(np.flatnonzero(varying))), kept


def _log_data(data: PerturbationData) -> None:
    """Says what was read."""
    dosed = np.flatnonzero(np.any((data.labels != 0) & (data.labels != 1), axis=0))
    doses = []
    for column in dosed[:8]:
        found = np.setdiff1d(data.labels[:, column], [0])
        doses.append(f"{data.perturbations[column]} at {', '.join(f'{dose:g}' for dose in found[:8])}")
    more = f" ... ({len(dosed)} in all)" if len(dosed) > 8 else ""
    in_control = data.counts[data.index(data.control)] if data.control in data.conditions else 0
    logging.info(
        "Read %d cells, %d features, %d conditions with %d cells of the control %r; %d perturbations: %s; doses: %s",
        *(data.num_cells, data.num_features, data.num_conditions, in_control, data.control),
        *(data.num_perturbations, first_names(data.perturbations)),
        "; ".join(doses) + more or "1 throughout",
    )

"""Arrays, data frames and AnnData in, `PerturbationData` out: all validation of users' data is behind this door."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool

from pdae_jax.cells import StoredCells
from pdae_jax.data import genes
from pdae_jax.data.conditions import Conditions, drop_small, drop_unused
from pdae_jax.data.counts import Sized, is_counts, read_counts
from pdae_jax.data.entries import read_dicts, read_matrix, read_names
from pdae_jax.data.notation import Notation, make_notation, with_found_controls
from pdae_jax.data.observations import (
    BLOCK_ROWS,
    check_values,
    constant_columns,
    read_features,
    read_observations,
    row_totals,
)
from pdae_jax.data.stored import identity_of_file, store_cells, varying_columns
from pdae_jax.data.tables import Place, column_names, find_columns, open_anndata, read_conditions
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData, read_only


def from_arrays(
    x: Any,
    conditions: Any = None,
    *,
    labels: Any = None,
    perturbations: Iterable[str] | None = None,
    features: Iterable[str] | None = None,
    control: str | int | Sequence[str | int] = "control",
    separator: str = "+",
    dose_in_name: bool | None = None,
    allow_doses: str | Sequence[str] = (),
    strata: str | Sequence[str] = (),
    min_cells: int | None = None,
    normalize: bool = False,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Data from a matrix of observations and the condition of each cell.

    Conditions are put in order of first appearance, the control first; so are label columns. Names that mean the same
    are one condition: ``"A+B"`` and ``"B+A"``, ``"A"`` and ``"A+control"``. It is named as it is first written, without
    parts that are the control. The log (`absl.logging`, level info) says what was read.

    Args:
        x: ``[cells, features]``: NumPy, JAX, SciPy sparse (made dense once, in float32) or a data frame.
        conditions: one entry per cell: names (``"A+B"``, ``"A:0.5+B"``, the control by its name; integers and booleans
            are names too) or dicts (``{"A": 1.0, "B": 0.5}``, ``{}`` for the control). A dose of 0 is absent. None when
            `labels` says it all.
        labels: matrix of doses ``[cells, perturbations]``; `conditions`, if also given, are then only names, which
            must agree with the labels one to one.
        perturbations: names of the label columns. By first appearance for names and dicts, the column names of a
            data frame, else ``"p0", "p1", ...``. Listed names are found whole, the longest first, also where they
            contain the separator (``"(+)-JQ1"``) or look like a missing value (``"NA"``).
        features: names of the columns of x; those of a data frame, else ``"x0", "x1", ...``.
        control: name of the control, or several names, whose cells all become the control, named as the first. A
            pattern stands for all names that it matches: ``"NegCtrl*"``.
        separator: joins perturbation names in a condition name. With ``"_"``, ``"A_B__A_B"`` is ``"A_B"``, as pairs of
            guides are written in GSE133344.
        dose_in_name: whether the number in ``"A:2"`` is a dose of A, or part of a name as in ``"CHEBI:41423"``. None:
            it is a dose where that is certain: A is in `perturbations`, stands alone in other conditions, or has a
            number elsewhere that no identifier has (``"A:0.5"``, ``"A:-1"``, ``"A:0"``); else it is part of the name.
        allow_doses: odd doses in names, and in columns of doses, that are meant so: ``"zero"`` of named perturbations
            beside a named control, which makes these cells the control, and ``"negative"``. They are refused otherwise,
            since logarithms make them. A matrix and dicts of doses are taken as they are.
        strata: names of perturbations that are cell types, lines or donors. A combination is one of perturbations,
            never of one with a stratum, and is held out of all strata.
        min_cells: conditions with fewer cells are dropped, and named in the log. None: all must have 2.
        normalize: x holds raw counts, which become ``log(1 + counts per 10,000)``; the size of each cell is kept, and
            predictions can be had as counts (`Prediction.counts`). Raw counts that are not normalised are warned
            about; counts that were normalised before are recognised.
        like: data that these cells join, a test set from a file of its own, say. Its control, separator, perturbations
            and features are taken, control cells need not be there, and features may be constant.

    Raises:
        ValueError, TypeError, KeyError: anything that could not be analysed as it stands; the message names the
            condition, perturbation or feature, the value found, and what to do.
    """
    if features is None and hasattr(x, "columns"):
        features = [str(name) for name in x.columns]
    x = read_observations(x)
    if conditions is None and labels is None:
        raise ValueError("No conditions. Pass conditions=<one name or dict per cell> or labels=<matrix of doses>.")
    entries = None if conditions is None else _as_list(conditions)
    for name, value in {"conditions": entries, "labels": labels}.items():
        count = x.shape[0] if value is None else value.shape[0] if hasattr(value, "shape") else len(value)
        if count != x.shape[0]:
            raise ValueError(f"{name} has {count} entries, but x has {x.shape[0]} rows. Pass one entry per row of x.")
    if labels is not None and perturbations is None:
        perturbations = labels.columns if hasattr(labels, "columns") else _numbered(labels)
    notation = _notation(like, control, separator, perturbations, dose_in_name, allow_doses, strata)
    features = like.features if like is not None and features is None else features
    notation = with_found_controls(notation, entries or [])
    if labels is not None:
        table = read_matrix(labels, entries, notation)
    elif entries and isinstance(entries[0], Mapping):
        table = read_dicts(entries, notation)
    else:
        table = read_names(entries or [], notation)
    find_columns([name for name in notation.strata if name != notation.control], table.perturbations, "perturbations")
    return _build(_counts(x, None, normalize, like), table, features, notation, min_cells)


def from_frame(
    frame: Any,
    *,
    condition: str | Sequence[str] = "condition",
    features: Iterable[str] | None = None,
    dose: str | Sequence[str | None] | None = None,
    perturbations: Iterable[str] | None = None,
    control: str | int | Sequence[str | int] = "control",
    separator: str = "+",
    dose_in_name: bool | None = None,
    allow_doses: str | Sequence[str] = (),
    strata: str | Sequence[str] = (),
    min_cells: int | None = None,
    normalize: bool = False,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Data from a pandas data frame with one row per cell.

    Args:
        frame: the data frame.
        condition: column with the condition names; or several, ``["drug1", "drug2"]`` or ``["drug", "cell_type"]``,
            the control's name where there is none.
        features: columns with the observations; all other columns when None.
        dose: column with doses: a number for all perturbations of the cell's condition, or a string such as
            ``"1+0.5"`` in the order of the names; or one column for each of `condition`, None where the names of that
            column have no dose: ``condition=["drug", "cell_type"], dose=["uM", None]``. Numbers in one unit; 0 is
            absent. Conditions are then named with their doses, ``"A+B:0.5"``.
        perturbations: names of the label columns, by first appearance when None; see `from_arrays`.
        control: name of the control, several, or a pattern, see `from_arrays`.
        separator: joins perturbation names in a condition name, see `from_arrays`.
        dose_in_name: whether the number in ``"A:2"`` is a dose, see `from_arrays`.
        allow_doses: ``"zero"``, ``"negative"`` or both, where these are meant so, see `from_arrays`.
        strata: those of the columns `condition` that have cell types, lines or donors. Their names are never split, and
            have no dose. A combination is one of perturbations, never of one with a stratum, and is held out of all
            strata.
        min_cells: conditions with fewer cells are dropped.
        normalize: the features are raw counts, see `from_arrays`.
        like: data that these cells join, see `from_arrays`.

    Raises:
        KeyError: a column is missing; the message names the nearest ones.
        ValueError, TypeError: see `from_arrays`.
    """
    if not hasattr(frame, "columns"):
        raise TypeError(
            f"frame is a {type(frame).__name__}. Pass a pandas data frame, or use from_anndata or from_arrays."
        )
    notation = _notation(like, control, separator, perturbations, dose_in_name, allow_doses, strata)
    features = like.features if like is not None and features is None else features
    known = [str(name) for name in frame.columns]
    named, dosed = column_names(condition), column_names(dose)
    used = [*named, *(name for name in dosed if name is not None)]
    names = [name for name in known if name not in used] if features is None else [str(name) for name in features]
    labelled = frame.iloc[:, find_columns(used, known, "the frame")]
    observed = frame.iloc[:, find_columns(names, known, "the frame")]
    notation = with_found_controls(notation, _columns(labelled, len(named)))
    table = read_conditions(labelled, dosed, notation)
    return _build(_counts(read_observations(observed), None, normalize, like), table, names, notation, min_cells)


def from_anndata(
    adata: Any,
    *,
    condition: str | Sequence[str] = "condition",
    control: str | int | Sequence[str | int] = "control",
    separator: str = "+",
    dose: str | Sequence[str | None] | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    gene_symbols: str | None = None,
    features: Iterable[str] | None = None,
    highly_variable: int | None = None,
    drop_constant: bool = False,
    perturbations: Iterable[str] | None = None,
    dose_in_name: bool | None = None,
    allow_doses: str | Sequence[str] = (),
    strata: str | Sequence[str] = (),
    min_cells: int | None = None,
    normalize: bool = False,
    store: str | Path | None = None,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Data from an AnnData, or from an .h5ad or .zarr file of which only the needed parts are read.

    Args:
        adata: AnnData or path.
        condition: column of ``obs`` with the condition names, or several with one perturbation each, see `from_frame`.
        control: name of the control, several, or a pattern, see `from_arrays`.
        separator: joins perturbation names in a condition name, see `from_arrays`.
        dose: column of ``obs`` with doses, or several, see `from_frame`.
        layer: layer with the observations; ``X`` when None, ``"raw"`` or ``"raw.X"`` for the matrix of ``raw``.
        obsm: key of ``obsm`` with the observations instead, named ``X_pca0, X_pca1, ...`` or as a data frame's columns.
        gene_symbols: column of ``var`` with names of the features, instead of ``var_names``. Names that come again get
            a number, as by ``var_names_make_unique``.
        features: names from ``var_names``, or of `gene_symbols`, to keep, in this order; all when None.
        highly_variable: number of features to keep instead, those that vary most in cells of the control and of single
            perturbations, by `scanpy.pp.highly_variable_genes`. Needs scanpy.
        drop_constant: features that are the same in all cells are dropped, and named in the log, instead of refused.
        perturbations: names of the label columns, by first appearance when None. Listed names are found whole, also
            where they contain the separator; see `from_arrays`.
        dose_in_name: whether the number in ``"A:2"`` is a dose of A, or part of a name as in ``"CHEBI:41423"``. None:
            it is a dose where that is certain, see `from_arrays`.
        allow_doses: ``"zero"``, ``"negative"`` or both, where these are meant so, see `from_arrays`.
        strata: those of the columns `condition` that have cell types, lines or donors, see `from_frame`.
        min_cells: conditions with fewer cells are dropped, and named in the log. None: all must have 2.
        normalize: the layer holds raw counts, see `from_arrays`. They are divided by the counts of all features of the
            file, also those that are not kept.
        store: folder for the cells, where they do not fit into memory. The file is read once, a block at a time, and
            training and evaluation then read the rows that they need (`pdae_jax.cells.StoredCells`). A folder that
            holds the same cells already is used again; it must stay as long as the data and their runs are used. All
            cells are checked, also those of conditions that are dropped.
        like: data that these cells join, see `from_arrays`.

    Raises:
        KeyError: a column, layer or feature is missing; the message names the nearest ones.
        FileNotFoundError: there is no such file.
        ValueError, TypeError: see `from_arrays`.
    """
    if highly_variable is not None and (features is not None or like is not None):
        raise ValueError(f"highly_variable={highly_variable} chooses the features, and others are given. Pass one.")
    if store is not None and not isinstance(adata, str | Path):
        raise TypeError(f"store={str(store)!r} is for the path of a file; a {type(adata).__name__} was passed.")
    notation = _notation(like, control, separator, perturbations, dose_in_name, allow_doses, strata)
    features = like.features if like is not None and features is None else features
    named, dosed = column_names(condition), column_names(dose)
    place = Place(layer, obsm, gene_symbols)
    with open_anndata(adata, [*named, *(name for name in dosed if name is not None)], place) as table:
        if features is not None:  # what is misspelt is said before anything is read
            features = [str(name) for name in features]
            find_columns(features, table.features, "var_names")
        notation = with_found_controls(notation, _columns(table.obs, len(named)))
        conditions = read_conditions(table.obs, dosed, notation)
        if highly_variable is not None:
            features = genes.highly_variable(table.matrix, table.features, conditions, highly_variable)
        if drop_constant and features is None and store is None:
            features = varying_names(table.features, ~constant_columns(table.matrix))
        names = table.features if features is None else list(features)
        columns = None if features is None else find_columns(names, table.features, "var_names")
        if store is not None:
            _check_like(read_observations(table.matrix[:BLOCK_ROWS], columns), normalize, like)
            observed = store_cells(
                store,
                table.matrix,
                read_features(names, len(names)),
                columns,
                normalize=normalize,
                source=identity_of_file(adata, str(place)),
                may_be_constant=like is not None or drop_constant,
            )
            if drop_constant:
                observed, names = _without_constant(observed, names)
            return _build(observed, conditions, names, notation, min_cells)
        x, totals = read_observations(table.matrix, columns), row_totals(table.matrix) if normalize else None
        return _build(_counts(x, totals, normalize, like), conditions, names, notation, min_cells)


def _without_constant(observed: Sized, names: list[str]) -> tuple[Sized, list[str]]:
    """Cells in files without the features that are the same in all of them, and the names of the others."""
    assert isinstance(observed.x, StoredCells)
    varying = varying_columns(observed.x)
    kept = varying_names(names, varying)
    if len(kept) == len(names):
        return observed, names
    return observed._replace(x=observed.x.with_columns(np.flatnonzero(varying))), kept


def _notation(
    like: PerturbationData | None,
    control: Any,
    separator: str,
    perturbations: Any,
    dose_in_name: bool | None,
    allow_doses: str | Sequence[str],
    strata: str | Sequence[str],
) -> Notation:
    """How conditions are written: as the caller says, or as in the data that these join."""
    if like is None:
        return make_notation(control, separator, perturbations, dose_in_name, allow_doses, strata)
    given = [control] if isinstance(control, str | int) else list(control)  # unperturbed cells may be named otherwise
    controls = [like.control, *(name for name in given if name != "control")]
    found = make_notation(controls, like.separator, like.perturbations, dose_in_name, allow_doses, strata)
    return found._replace(needs_control=False, strata=(*found.strata, *like.strata))


def _counts(x: np.ndarray, totals: np.ndarray | None, normalize: bool, like: PerturbationData | None) -> Sized:
    """Values with size factors, on the scale of the data that they join."""
    _check_like(x, normalize, like)
    return read_counts(x, totals, normalize)


def _check_like(x: np.ndarray, normalize: bool, like: PerturbationData | None) -> None:
    if like is not None and like.size_factors is not None and not normalize and is_counts(x):
        raise ValueError("These are raw counts, and the data they join log-normalised ones. Pass normalize=True.")


def varying_names(names: Sequence[str], varying: Bool[np.ndarray, " features"]) -> list[str]:
    """The features that vary; the others are named in the log. If none does, all: the reader then says so."""
    if not varying.any():
        return list(names)
    if not varying.all():
        dropped = [name for name, kept in zip(names, varying, strict=True) if not kept]
        logging.warning("dropped features that are the same in all cells: %s", first_names(dropped))
    return [name for name, kept in zip(names, varying, strict=True) if kept]


def _build(
    observed: Sized,
    table: Conditions,
    features: Iterable[str] | None,
    notation: Notation,
    min_cells: int | None,
) -> PerturbationData:
    """Checks what concerns cells and features, and assembles the data."""
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
    )
    _log_data(data)
    return data


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


def _columns(frame: Any, number: int) -> Iterator[Any]:
    """The values of the first columns of a frame, one column after the other."""
    return itertools.chain.from_iterable(frame.iloc[:, column] for column in range(number))


def _numbered(labels: Any) -> list[str]:
    shape = labels.shape if hasattr(labels, "shape") else np.shape(labels)
    return [f"p{column}" for column in range(shape[1] if len(shape) > 1 else 0)]


def _as_list(conditions: Any) -> list[Any]:
    if isinstance(conditions, str | Mapping):
        raise TypeError(f"conditions is {conditions!r}. Pass one entry per cell, in a list or array.")
    return conditions.tolist() if hasattr(conditions, "tolist") else list(conditions)

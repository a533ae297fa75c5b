"""Arrays, data frames and AnnData in, `PerturbationData` out: all validation of users' data is behind this door."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.data.anndata_files import Place
from pdae_jax.data.assemble import Columns, ReadOptions, assemble, assemble_anndata, assemble_frame
from pdae_jax.data.doubtful_columns import warn_of_names
from pdae_jax.data.entries import read_dicts, read_matrix, read_names
from pdae_jax.data.feature_columns import make_selection
from pdae_jax.data.normalisation import Sized
from pdae_jax.data.notation import make_notation, with_found_controls
from pdae_jax.data.tables import column_names, find_columns
from pdae_jax.data.values import make_treatment, read_values
from pdae_jax.types import PerturbationData


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
    totals: Any = None,
    arcsinh: float | None = None,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Read data from a matrix of observations and the condition of each cell.

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
            about; counts that were normalised before are recognised. Fractional counts, of an algorithm, are
            normalised too; predictions are then no whole numbers.
        totals: counts of each cell over all features that were measured, where x has only some of them: `normalize`
            divides by them. None: by the sums of x.
        arcsinh: cofactor; values become ``arcsinh(x / cofactor)``, as is usual for cytometry. None: as they are.
        like: data that these cells join, a test set from a file of its own, say. Its control, separator, perturbations
            and features are taken, control cells need not be there, and features may be constant. Values must be on its
            scale: cells that were divided by other totals, or not transformed as its cells were, are refused.

    Raises:
        ValueError, TypeError, KeyError: anything that could not be analysed as it stands; the message names the
            condition, perturbation or feature, the value found, and what to do.
    """
    if features is None and hasattr(x, "columns"):
        features = [str(name) for name in x.columns]
    features = make_selection(features, like=like).features
    if like is None:
        warn_of_names(features or ())
    treatment = make_treatment(normalize, arcsinh, like=like, as_file=False).with_totals(totals)
    (x, sizes), reading = read_values(x, features, None, treatment)
    if conditions is None and labels is None:
        raise ValueError("No conditions. Pass conditions=<one name or dict per cell> or labels=<matrix of doses>.")
    entries = None if conditions is None else _as_list(conditions)
    for name, value in {"conditions": entries, "labels": labels}.items():
        count = len(x) if value is None else value.shape[0] if hasattr(value, "shape") else len(value)
        if count != len(x):
            raise ValueError(f"{name} has {count} entries, but x has {len(x)} rows. Pass one entry per row of x.")
    if labels is not None and perturbations is None:
        perturbations = labels.columns if hasattr(labels, "columns") else _numbered(labels)
    notation = make_notation(control, separator, perturbations, dose_in_name, allow_doses, strata, like=like)
    notation = with_found_controls(notation, entries or [])
    if labels is not None:
        table = read_matrix(labels, entries, notation)
    elif entries and isinstance(entries[0], Mapping):
        table = read_dicts(entries, notation)
    else:
        table = read_names(entries or [], notation)
    find_columns([name for name in notation.strata if name != notation.control], table.perturbations, "perturbations")
    return assemble(Sized(x, sizes), table, features, notation, min_cells, reading)


def from_frame(
    frame: Any,
    *,
    condition: str | Sequence[str] = "condition",
    features: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    dose: str | Sequence[str | None] | None = None,
    perturbations: Iterable[str] | None = None,
    control: str | int | Sequence[str | int] = "control",
    separator: str = "+",
    dose_in_name: bool | None = None,
    allow_doses: str | Sequence[str] = (),
    strata: str | Sequence[str] = (),
    min_cells: int | None = None,
    normalize: bool = False,
    totals: str | None = None,
    arcsinh: float | None = None,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Read data from a pandas data frame with one row per cell.

    Args:
        frame: the data frame.
        condition: column with the condition names; or several, ``["drug1", "drug2"]`` or ``["drug", "cell_type"]``,
            the control's name where there is none.
        features: columns with the observations, by name or by a pattern such as ``"CD*"``; ``"*"``: all other columns.
            None: those that look like measurements. Row counters, columns without a name or the same in all rows, and
            of cytometry time, scatter and DNA are left out, which the log and `PerturbationData.reading` say. Columns
            that look like settings, places, totals or labels are asked about.
        exclude: columns that are no features, by name or pattern.
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
        normalize: the features are raw counts, see `from_arrays`. They are divided by the counts of all measured
            columns, also those that are not kept.
        totals: column with the counts of each cell instead, where the frame has only the features that were kept.
        arcsinh: cofactor, see `from_arrays`; that of the data that are joined when None.
        like: data that these cells join, see `from_arrays`.

    Raises:
        KeyError: a column is missing; the message names the nearest ones.
        ValueError, TypeError: see `from_arrays`.
    """
    options = ReadOptions(
        Columns(column_names(condition), column_names(dose), totals),
        make_notation(control, separator, perturbations, dose_in_name, allow_doses, strata, like=like),
        make_treatment(normalize, arcsinh, like=like),
        make_selection(features, exclude, like=like),
        min_cells,
    )
    return assemble_frame(frame, options)


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
    features: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    highly_variable: int | None = None,
    drop_constant: bool = False,
    perturbations: Iterable[str] | None = None,
    dose_in_name: bool | None = None,
    allow_doses: str | Sequence[str] = (),
    strata: str | Sequence[str] = (),
    min_cells: int | None = None,
    normalize: bool = False,
    totals: str | None = None,
    arcsinh: float | None = None,
    store: str | Path | None = None,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Read data from an AnnData, or from an .h5ad or .zarr file of which only the needed parts are read.

    Args:
        adata: AnnData or path.
        condition: column of ``obs`` with the condition names, or several with one perturbation each, see `from_frame`.
        control: name of the control, several, or a pattern, see `from_arrays`.
        separator: joins perturbation names in a condition name, see `from_arrays`.
        dose: column of ``obs`` with doses, or several, see `from_frame`.
        layer: layer with the observations; ``"raw"`` or ``"raw.X"`` for the matrix of ``raw``, ``"X"`` for ``X``. None:
            that of the data that are joined, else ``X``.
        obsm: key of ``obsm`` with the observations instead, named ``X_pca0, X_pca1, ...`` or as a data frame's columns.
        gene_symbols: column of ``var`` with names of the features, instead of ``var_names``. Names that come again get
            a number, as by ``var_names_make_unique``.
        features: names from ``var_names``, or of `gene_symbols`, to keep, in this order, or patterns such as ``"CD*"``;
            all when None.
        exclude: names or patterns of those not to keep.
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
        totals: column of ``obs`` with the counts of each cell instead, where the file has only the features that were
            kept.
        arcsinh: cofactor, see `from_arrays`; that of the data that are joined when None.
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
    if store is not None and not isinstance(adata, str | Path):
        raise TypeError(f"store={str(store)!r} is for the path of a file; a {type(adata).__name__} was passed.")
    options = ReadOptions(
        Columns(column_names(condition), column_names(dose), totals),
        make_notation(control, separator, perturbations, dose_in_name, allow_doses, strata, like=like),
        make_treatment(normalize, arcsinh, Place(layer, obsm, gene_symbols), like=like),
        make_selection(features, exclude, highly_variable, drop_constant, like=like),
        min_cells,
    )
    return assemble_anndata(adata, options, store)


def _numbered(labels: Any) -> list[str]:
    shape = labels.shape if hasattr(labels, "shape") else np.shape(labels)
    return [f"p{column}" for column in range(shape[1] if len(shape) > 1 else 0)]


def _as_list(conditions: Any) -> list[Any]:
    if isinstance(conditions, str | Mapping):
        raise TypeError(f"conditions is {conditions!r}. Pass one entry per cell, in a list or array.")
    return conditions.tolist() if hasattr(conditions, "tolist") else list(conditions)

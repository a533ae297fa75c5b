"""Users' own files as data: .h5ad, .csv, .parquet and .fcs, read by the ending of the path."""

import ast
import contextlib
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.damage import reading
from pdae_jax.data.anndata_files import Place, in_old_layout, open_anndata
from pdae_jax.data.assemble import Columns, ReadOptions, assemble_anndata, assemble_frame, conditions_of
from pdae_jax.data.fcs import warn_of_events
from pdae_jax.data.feature_columns import make_selection
from pdae_jax.data.notation import make_notation
from pdae_jax.data.sheet import DOSE, Sheet, read_sheet
from pdae_jax.data.split_column import parts_of_conditions
from pdae_jax.data.table_files import FILE, ending_of, find_file, read_tables, table_files
from pdae_jax.data.values import make_treatment
from pdae_jax.design.design import design_of
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData, Reading


def own_data(
    *,
    path: str | Path | None = None,
    sheet: str | Path | None = None,
    condition: str | Sequence[str] = "condition",
    control: str | Sequence[str] = "control",
    perturbations: Sequence[str] = (),
    separator: str = "+",
    dose: str | Sequence[str] | None = None,
    dose_in_name: bool | None = None,
    allow_doses: Sequence[str] = (),
    stratum: str | None = None,
    reference: str | None = None,
    layer: str | None = None,
    obsm: str | None = None,
    gene_symbols: str | None = None,
    features: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    highly_variable: int | None = None,
    min_cells: int = 2,
    normalize: bool = False,
    totals: str | None = None,
    arcsinh: float | None = None,
    compensate: bool | None = None,
    store: str | Path | None = None,
    split: str | None = None,
    like: PerturbationData | None = None,
) -> PerturbationData:
    """Read data from a file, the columns by their names.

    Args:
        path: an .h5ad, .zarr, .csv, .tsv, .parquet or .fcs file, or a folder of tables or .fcs files with the same
            columns.
        sheet: a .csv or .tsv file with a line for each of several tables or .fcs files: columns ``file`` and
            `condition`, and if you like ``dose``, `stratum`, ``batch``, ``replicate`` and others, see `read_sheet`. Its
            paths are from `path`, a folder, or else from its own folder.
        condition: column with the condition names: of ``obs``, of the table, of the sheet, or for .fcs a channel or a
            keyword of the file; ``"file"`` is the name of a file without its ending. Or several columns, one
            perturbation in each, and the control's name where there is none. Several names are also read from one
            text, as a command line has it: ``"('drug_1', 'drug_2')"``.
        control: name of the control, several, or a pattern such as ``"NegCtrl*"``.
        perturbations: names of perturbations, found whole where they contain the separator, see `from_arrays`. None
            given: by first appearance.
        separator: joins perturbation names in a condition name.
        dose: column with doses, see `pdae_jax.from_frame`; or one for each column of `condition`. None: the column
            ``dose`` of a sheet that has it.
        dose_in_name: whether the number in ``"A:2"`` is a dose, see `from_arrays`.
        allow_doses: ``"zero"``, ``"negative"`` or both, where such doses are meant so, see `from_arrays`.
        stratum: column with the cell type, line or donor of each cell. It becomes a part of the condition, ``"A+nk"``,
            with a shift of its own and without a dose; combinations are those of the other names, and are held out of
            all strata.
        reference: stratum whose unperturbed cells are the control; it has no part in names.
        layer: layer of an .h5ad or .zarr file, ``"raw"`` for the matrix of ``raw``; ``X`` when None.
        obsm: key of ``obsm`` of such a file with the observations instead, see `from_anndata`.
        gene_symbols: column of ``var`` of such a file with the names of features; ``var_names`` when None.
        features: features to keep, in this order, by name or pattern (``"CD*"``). Empty: all that vary, and of tables
            those that look like measurements, see `pdae_jax.from_frame`; those left out are named in the log.
        exclude: names or patterns of those not to keep.
        highly_variable: number of features of an .h5ad or .zarr file to keep instead, see `from_anndata`.
        min_cells: conditions with fewer cells are dropped, and named in the log. The control stays.
        normalize: the values are raw counts of sequencing, and become ``log(1 + counts per 10,000)``.
        totals: column with the counts of each cell over all genes, where the file has only some of them.
        arcsinh: cofactor; values become ``arcsinh(x / cofactor)``, as is usual for cytometry. None: as they are.
        compensate: whether the spillover between channels that .fcs files name is taken off. None: as in the data that
            are joined, else it is left in, with a warning.
        store: folder for the cells of an .h5ad or .zarr file that does not fit into memory, see `from_anndata`.
        split: column that says which conditions train, validate and test (``config.split.column``): they are then in
            ``reading.parts``, see `parts_of_conditions`.
        like: data that these cells join (``config.data.test_path``), see `from_arrays`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the reader of this kind of file is not installed.
        KeyError: a column, layer or feature is missing; the message names the nearest ones.
        ValueError, TypeError: a setting that makes no sense; see also `pdae_jax.from_arrays`.
    """
    if min_cells < 2:
        raise ValueError(f"min_cells is {min_cells}. Pass at least 2: a distribution needs two cells.")
    if stratum is None and reference is not None:
        raise ValueError(
            f"stratum={stratum!r} and reference={reference!r} go together: the column, and the value of it whose "
            f"unperturbed cells are the control. Pass both or neither."
        )
    controls, named, dosed = several(control), several(condition), several(dose)
    tables = None
    if sheet is not None:
        folder = None if path is None else find_file(path)
        tables = read_sheet(
            sheet, conditions=named, doses=dosed or [DOSE], stratum=stratum, controls=controls, folder=folder
        )
        dosed = dosed or ([DOSE] if DOSE in tables.columns else [])
    file = Path(str(sheet)) if tables else find_file(path)
    inside = {"layer": layer, "obsm": obsm, "gene_symbols": gene_symbols}
    inside |= {"store": store, "highly_variable": highly_variable}
    is_anndata = ending_of(file) in (".h5ad", ".zarr")
    for name, value in ({} if is_anndata else inside).items():
        if value is not None:
            raise ValueError(f"{name}={str(value)!r}, but {file.name!r} is no .h5ad or .zarr file. Leave it out.")
    names, strata = several(perturbations) or None, several(stratum)
    all_controls = [*controls, *several(reference)]
    place = Place(layer, obsm, gene_symbols) if is_anndata else None
    options = ReadOptions(
        Columns((*named, *strata), tuple(dosed), totals),
        make_notation(all_controls, separator, names, dose_in_name, several(allow_doses), strata, like=like),
        make_treatment(normalize, arcsinh, place, like=like),
        make_selection(several(features) or None, several(exclude), highly_variable, like=like),
        min_cells,
    )
    if is_anndata:
        return _from_anndata(file, options, store, split)
    tables = tables or Sheet(table_files(file) if file.is_dir() else [file], None)
    return _from_tables(tables, options, split, compensate)


def several(names: str | Sequence[str] | None) -> list[Any]:
    """Return names as a list: one, several, none, or several in one text, ``"('A', 'B')"``, as a command line has
    them.
    """
    if isinstance(names, str) and names.lstrip()[:1] in ("(", "["):
        with contextlib.suppress(SyntaxError, ValueError):
            read = ast.literal_eval(names)
            names = read if isinstance(read, tuple | list) else names
    return [] if names is None else [names] if isinstance(names, str) else [str(name) for name in names]


def choose_held_out(data: PerturbationData, fraction: float, seed: int) -> tuple[str, ...]:
    """Choose combinations to hold out: a random fraction of those whose perturbations were all measured alone.

    What is left always has every perturbation by itself, so each held-out combination stays identified. A combination
    is one of perturbations, and is held out of all strata.

    Args:
        data: the data.
        fraction: share of these combinations, between 0 and 1; at least one is chosen.
        seed: of the choice, which does not depend on the order of the cells.

    Returns:
        Names in the order of `data.conditions`; none if there is no such combination.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out is {fraction}. Pass a number between 0 and 1, such as 0.2.")
    known, together = set(combinations_of_singles(data)), {}
    for name, row in zip(data.conditions, design_of(data).across_strata.tolist(), strict=True):
        together.setdefault(row, set()).add(name)
    candidates = {min(names): names for names in together.values() if names <= known}
    number = max(1, round(fraction * len(candidates))) if candidates else 0
    chosen = set().union(*(candidates[name] for name in random.Random(seed).sample(sorted(candidates), number)))
    return tuple(name for name in data.conditions if name in chosen)


def combinations_of_singles(data: PerturbationData) -> list[str]:
    """List the conditions of at least two perturbations, each of which was also measured alone, at any dose."""
    known = ~np.any((data.labels != 0) & ~design_of(data).measured_alone, axis=1)
    return [
        name
        for name, order, of_known in zip(data.conditions, data.orders, known, strict=True)
        if order > 1 and of_known
    ]


def _with_parts(data: PerturbationData, frame: Any, split: str, options: ReadOptions) -> PerturbationData:
    """Add the part of each condition, from a frame with the columns of conditions, doses and the split."""
    table, _ = conditions_of(frame, options)
    parts = parts_of_conditions(frame[split].tolist(), table, split)
    return dataclasses.replace(data, reading=dataclasses.replace(data.reading or Reading(), parts=parts))


def _from_anndata(file: Path, options: ReadOptions, store: str | Path | None, split: str | None) -> PerturbationData:
    import anndata

    source: Any = file
    if file.is_file() and in_old_layout(file):
        if store is not None:
            raise ValueError(f"{file.name!r} was written before anndata 0.8. Write it again with a newer anndata.")
        with reading(file):
            source = anndata.read_h5ad(file)
    chosen = options.selection.features is not None or options.selection.highly_variable is not None
    selection = options.selection._replace(drop_constant=not chosen)
    data = assemble_anndata(source, dataclasses.replace(options, selection=selection), store)
    if split is None:
        return data
    with open_anndata(source, [*options.columns.labels, split]) as table:
        return _with_parts(data, table.obs, split, options)


def _from_tables(tables: Sheet, options: ReadOptions, split: str | None, compensate: bool | None) -> PerturbationData:
    like, used = options.treatment.like, options.columns.labels
    compensate = like.reading.compensate if compensate is None and like and like.reading else compensate
    frame = read_tables(tables.files, [*used, *several(split)], tables.columns, compensate)
    _check_no_sheet(frame, tables)
    told = [name for name in (() if tables.columns is None else tables.columns) if name not in (*used, split)]
    selection = options.selection
    without = selection._replace(exclude=tuple(dict.fromkeys([*selection.exclude, *told])))
    data = assemble_frame(
        frame.drop(columns=[] if split is None or split in used else [split]),
        dataclasses.replace(options, selection=without),
    )
    reading = data.reading or Reading()
    left_out = {name: why for name, why in reading.left_out.items() if name not in told}
    data = dataclasses.replace(data, reading=dataclasses.replace(reading, left_out=left_out, compensate=compensate))
    if selection.features is None:
        warn_of_events(frame, data)
    return data if split is None else _with_parts(data, frame, split, options)


def _check_no_sheet(frame: Any, tables: Sheet) -> None:
    """Raises ``ValueError`` for a table in which each row is another file: no cells, but a sheet."""
    if tables.columns is not None or len(tables.files) > 1 or FILE not in frame:
        return
    names = frame[FILE].astype(str)
    if names.is_unique and names.map(lambda name: bool(ending_of(Path(name)))).all():
        raise ValueError(
            f"{tables.files[0].name!r} has a file in each row, {first_names(names.tolist(), 2)}: it is a sample sheet. "
            f"Pass it as config.data.sheet."
        )

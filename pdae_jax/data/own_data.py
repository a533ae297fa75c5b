"""Users' own files as data: .h5ad, .csv, .parquet and .fcs, read by the ending of the path."""

import ast
import contextlib
import dataclasses
import importlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.data.load import from_anndata, from_frame, varying_names
from pdae_jax.data.tables import in_old_layout
from pdae_jax.spelling import first_names, nearest_names
from pdae_jax.types import PerturbationData

ENDINGS = (".h5ad", ".zarr", ".csv", ".csv.gz", ".tsv", ".parquet", ".fcs")

#: Condition or dose of an .fcs file by its own name, without the ending.
FILE = "file"
_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # of a value in a table


def own_data(
    *,
    path: str | Path | None = None,
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
    features: Sequence[str] = (),
    highly_variable: int | None = None,
    min_cells: int = 2,
    normalize: bool = False,
    arcsinh: float | None = None,
    store: str | Path | None = None,
) -> PerturbationData:
    """Data from a file, the columns by their names.

    Args:
        path: an .h5ad, .zarr, .csv, .tsv, .parquet or .fcs file, or a folder of .fcs files with the same channels.
        condition: column with the condition names: of ``obs``, of the table, or for .fcs a channel or a keyword of the
            file; ``"file"`` is the name of the .fcs file itself. Or several columns, one perturbation in each, and the
            control's name where there is none. Several names are also read from one text, as a command line has it:
            ``"('drug_1', 'drug_2')"``.
        control: name of the control, several, or a pattern such as ``"NegCtrl*"``.
        perturbations: names of perturbations, found whole where they contain the separator, see `from_arrays`. None
            given: by first appearance.
        separator: joins perturbation names in a condition name.
        dose: column with doses, see `pdae_jax.from_frame`; or one for each column of `condition`.
        dose_in_name: whether the number in ``"A:2"`` is a dose, see `from_arrays`.
        allow_doses: ``"zero"``, ``"negative"`` or both, where such doses are meant so, see `from_arrays`.
        stratum: column with the cell type, line or donor of each cell. It becomes a part of the condition, ``"A+nk"``,
            with a shift of its own and without a dose; combinations are those of the other names, and are held out of
            all strata.
        reference: stratum whose unperturbed cells are the control; it has no part in names.
        layer: layer of an .h5ad or .zarr file, ``"raw"`` for the matrix of ``raw``; ``X`` when None.
        obsm: key of ``obsm`` of such a file with the observations instead, see `from_anndata`.
        gene_symbols: column of ``var`` of such a file with the names of features; ``var_names`` when None.
        features: features to keep, in this order. Empty: all that vary, of tables all other columns; those left out
            are named in the log.
        highly_variable: number of features of an .h5ad or .zarr file to keep instead, see `from_anndata`.
        min_cells: conditions with fewer cells are dropped, and named in the log. The control stays.
        normalize: the values are raw counts of sequencing, and become ``log(1 + counts per 10,000)``.
        arcsinh: cofactor; values become ``arcsinh(x / cofactor)``, as is usual for cytometry. None: as they are.
        store: folder for the cells of an .h5ad or .zarr file that does not fit into memory, see `from_anndata`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the reader of this kind of file is not installed.
        KeyError: a column, layer or feature is missing; the message names the nearest ones.
        ValueError, TypeError: a setting that makes no sense; see also `pdae_jax.from_arrays`.
    """
    file = _find(path)
    if min_cells < 2:
        raise ValueError(f"min_cells is {min_cells}. Pass at least 2: a distribution needs two cells.")
    if arcsinh is not None and not arcsinh > 0:
        raise ValueError(f"arcsinh is {arcsinh}. Pass a cofactor above 0: 5 is usual for CyTOF, 150 for fluorescence.")
    if (stratum is None) != (reference is None):
        raise ValueError(
            f"stratum={stratum!r} and reference={reference!r} go together: the column, and the value of it whose "
            f"unperturbed cells are the control. Pass both or neither."
        )
    annotated = file.suffix in (".h5ad", ".zarr")
    inside = {"layer": layer, "obsm": obsm, "gene_symbols": gene_symbols}
    for name, value in {**inside, "store": store, "highly_variable": highly_variable}.items():
        if value is not None and not annotated:
            raise ValueError(f"{name}={str(value)!r}, but {file.name!r} is no .h5ad or .zarr file. Leave it out.")
    if store is not None and arcsinh is not None:
        raise ValueError("store is for counts and other values that are used as they are. Leave arcsinh or store out.")
    if normalize and arcsinh is not None:
        raise ValueError(f"normalize=True and arcsinh={arcsinh}: counts of sequencing take one, cytometry the other.")
    named, dosed = several(condition), several(dose)
    if stratum is not None:  # one column of doses is for all names but those of strata
        named, dosed = [*named, stratum], [*(dosed * len(named) if len(dosed) == 1 else dosed), None] if dosed else []
    options = {
        "condition": named,
        "control": [*several(control), *([] if reference is None else [reference])],
        "perturbations": several(perturbations) or None,
        "separator": separator,
        "dose": dosed,
        "dose_in_name": dose_in_name,
        "allow_doses": several(allow_doses),
        "strata": several(stratum),
        "normalize": normalize,
    }
    if annotated:
        chosen = {"store": store, "highly_variable": highly_variable, "min_cells": min_cells}
        data = _from_anndata(file, list(features), options | inside | chosen)
    else:
        used = [*named, *(name for name in dosed if name is not None)]
        data = _from_table(_read_table(file, used), list(features), used, min_cells, options)
    return data if arcsinh is None else dataclasses.replace(data, x=np.arcsinh(data.x[:] / np.float32(arcsinh)))


def several(names: str | Sequence[str] | None) -> list[Any]:
    """Names as a list: one, several, none, or several in one text, ``"('A', 'B')"``, as a command line has them."""
    if isinstance(names, str) and names.lstrip()[:1] in ("(", "["):
        with contextlib.suppress(SyntaxError, ValueError):
            read = ast.literal_eval(names)
            names = read if isinstance(read, tuple | list) else names
    return [] if names is None else [names] if isinstance(names, str) else [str(name) for name in names]


def choose_held_out(data: PerturbationData, fraction: float, seed: int) -> tuple[str, ...]:
    """Combinations to hold out: a random fraction of those whose perturbations were all measured alone.

    What is left always has every perturbation by itself, so each held-out combination stays identified.

    Args:
        data: the data.
        fraction: share of these combinations, between 0 and 1; at least one is chosen.
        seed: of the choice, which does not depend on the order of the cells.

    Returns:
        Names in the order of `data.conditions`; none if there is no such combination.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out is {fraction}. Pass a number between 0 and 1, such as 0.2.")
    candidates = sorted(combinations_of_singles(data))
    number = max(1, round(fraction * len(candidates))) if candidates else 0
    chosen = set(random.Random(seed).sample(candidates, number))
    return tuple(name for name in data.conditions if name in chosen)


def combinations_of_singles(data: PerturbationData) -> list[str]:
    """Conditions of at least two perturbations, each of which was also measured alone, at any dose."""
    present = data.labels != 0
    alone = present[present.sum(axis=1) == 1].any(axis=0)
    return [
        name for name, row in zip(data.conditions, present, strict=True) if row.sum() > 1 and not np.any(row & ~alone)
    ]


def _find(path: str | Path | None) -> Path:
    """The file or folder of a path, which must be there and of a known kind."""
    if not path:
        raise ValueError(f"No file. Pass config.data.path=<a file that ends in one of {', '.join(ENDINGS)}>.")
    file = Path(path).expanduser()
    if not file.exists():
        there = sorted(other.name for other in file.parent.glob("*") if other.name.endswith(ENDINGS))
        nearest = nearest_names(file.name, there) if there else "that folder has no file of a known kind"
        raise FileNotFoundError(f"No file {str(path)!r}; {nearest}. Pass the path of a file that is there.")
    if file.is_dir() and file.suffix != ".zarr" and not list(file.glob("*.fcs")):
        raise ValueError(f"The folder {str(path)!r} has no .fcs file. Pass a file, or a folder of .fcs files.")
    if file.is_file() and not file.name.endswith(ENDINGS):
        raise ValueError(f"{file.name!r} is of no known kind. Pass a file that ends in one of {', '.join(ENDINGS)}.")
    return file


def _from_anndata(file: Path, features: list[str], options: dict[str, Any]) -> PerturbationData:
    import anndata

    chosen = bool(features) or options["highly_variable"] is not None
    source: Any = file
    if file.is_file() and in_old_layout(file):
        if options["store"] is not None:
            raise ValueError(f"{file.name!r} was written before anndata 0.8. Write it again with a newer anndata.")
        source = anndata.read_h5ad(file)
    return from_anndata(source, features=features or None, drop_constant=not chosen, **options)


def _from_table(
    frame: Any, features: list[str], used: Sequence[str], min_cells: int, options: dict[str, Any]
) -> PerturbationData:
    from pandas.api.types import is_numeric_dtype

    if not features:
        columns = [(str(name), column) for name, column in frame.items() if str(name) not in used]
        constant = [is_numeric_dtype(column) and column.min() == column.max() for _, column in columns]
        features = varying_names([name for name, _ in columns], ~np.array(constant, dtype=bool))
    return from_frame(frame, features=features, min_cells=min_cells, **options)


def _read_table(file: Path, used: Sequence[str]) -> Any:
    """A data frame of a file that is no .h5ad; the used columns are names and doses."""
    import pandas as pd

    if file.is_dir() or file.suffix == ".fcs":
        return _read_fcs(file, used)
    if file.suffix == ".parquet":
        _require("pyarrow", file)
        return pd.read_parquet(file)
    separator = "\t" if file.suffix == ".tsv" else ","
    # a name such as "NA" or "1" is a name, and not a missing value or a number
    text: dict[Any, Any] = dict.fromkeys(used, str)
    numeric = [name for name in pd.read_csv(file, sep=separator, nrows=0).columns if name not in text]
    table = pd.read_csv(
        file, sep=separator, dtype=text, keep_default_na=False, na_values={name: list(_MISSING) for name in numeric}
    )
    # what pandas and R write before the first column: the names of the rows
    return table.iloc[:, 1:] if str(table.columns[0]).startswith("Unnamed: 0") else table


def _read_fcs(file: Path, used: Sequence[str]) -> Any:
    """Events of one .fcs file, or of all in a folder, one after the other."""
    import pandas as pd

    _require("flowio", file)
    files = [file] if file.is_file() else sorted(file.glob("*.fcs"))
    frames = [_read_events(each, used) for each in files]
    for each, frame in zip(files, frames, strict=True):
        odd = sorted(set(frame.columns) ^ set(frames[0].columns))
        if odd:
            raise ValueError(
                f"{each.name!r} and {files[0].name!r} have not the same channels: {first_names(odd)} in one of them "
                f"only. Put files of one panel into a folder of their own."
            )
    return pd.concat(frames, ignore_index=True)


def _read_events(file: Path, used: Sequence[str]) -> Any:
    """Events of one .fcs file, with a column for each used name that is a keyword of the file, or `FILE`."""
    import pandas as pd

    content = importlib.import_module("flowio").FlowData(str(file))
    markers = Counter(content.pns_labels)
    names = [
        marker if marker and markers[marker] == 1 else channel
        for channel, marker in zip(content.pnn_labels, content.pns_labels, strict=True)
    ]
    frame = pd.DataFrame(content.as_array(), columns=pd.Index(names))
    keywords = {**content.text, FILE: file.stem}
    for name in used:
        key = name.lower().removeprefix("$")
        if name not in names and key not in keywords:
            known = [FILE, *names, *content.text]
            raise KeyError(
                f"No {name!r} in {file.name!r}; {nearest_names(name, known)}. Pass a channel, a keyword of the file, "
                f"or {FILE!r} for its name."
            )
        if name not in names:
            frame[name] = keywords[key]
    return frame


def _require(package: str, file: Path) -> None:
    """``ImportError`` with the command that mends it, if an optional reader is not installed."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Reading {file.name!r} needs {package}, which is not installed. Run make .venv/files.stamp in the "
            f"repository, or pip install 'pdae_jax[files]' elsewhere."
        ) from error

"""AnnData, in memory or in a file: columns of obs, the feature names and the matrix, found by name."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from pdae_jax.damage import reading, reading_rows
from pdae_jax.data.tables import Table, find_columns
from pdae_jax.spelling import first_names, nearest_names

#: Layers that are not in ``layers``: the matrix of ``raw``. A layer of the first name goes before.
RAW = ("raw", "raw.X")


class Place(NamedTuple):
    """Where in an AnnData the observations are."""

    layer: str | None = None  # ``X`` when None; one of `RAW` for that of ``raw``
    obsm: str | None = None  # a key of ``obsm`` instead
    gene_symbols: str | None = None  # column of ``var`` with the names of features; None: ``var_names``

    def __str__(self) -> str:
        return str(self.layer) if self.obsm is None else f"obsm[{self.obsm!r}]"


X = Place()


@contextlib.contextmanager
def open_anndata(source: Any, columns: Sequence[str], place: Place = X) -> Iterator[Table]:
    """Open columns of obs, the feature names and the matrix of an AnnData, an .h5ad file or a .zarr folder.

    Raises:
        KeyError: a column, the layer or the key of obsm is missing.
        FileNotFoundError: there is no such file.
        ValueError, TypeError: a file in an old layout, something else than an AnnData.
    """
    if isinstance(source, str | Path):
        import h5py

        if (Path(source) / "zarr.json").is_file() or (Path(source) / ".zgroup").is_file():
            import zarr

            with reading(source):
                group = zarr.open_group(str(source), mode="r")
            with reading_rows(source):
                yield _open_file(group, columns, place, source)
            return
        if not Path(source).is_file():
            raise FileNotFoundError(
                f"No file {str(source)!r}. Pass the path of an .h5ad file or a .zarr folder, or an AnnData."
            )
        with reading(source):
            file = h5py.File(source, "r")
        with file, reading_rows(source):
            yield _open_file(file, columns, place, source)
        return
    if not all(hasattr(source, name) for name in ("obs", "var_names", "layers")):
        raise TypeError(f"adata is a {type(source).__name__}. Pass an AnnData or the path of an .h5ad file.")
    obs = source.obs.iloc[:, find_columns(columns, [str(name) for name in source.obs.columns], "obs")]
    others = {str(name): int(source.obs[name].nunique()) for name in source.obs if str(name) not in columns}
    if place.obsm is not None:
        _check_key(place, source.obsm)
        names, matrix = _of_obsm(place.obsm, source.obsm[place.obsm])
        yield Table(obs, names, matrix, others, source.obs.__getitem__)
        return
    raw = getattr(source, "raw", None)
    layer = _check_layer(place.layer, source.layers, source.X is not None, raw is not None)
    held: Any = raw if _is_raw(layer, source.layers) else source
    matrix = source.layers[layer] if layer is not None and held is source else held.X
    names = [str(name) for name in held.var_names]
    if place.gene_symbols is not None:
        find_columns([place.gene_symbols], [str(name) for name in held.var.columns], "var")
        names = _symbols(place.gene_symbols, held.var[place.gene_symbols].tolist(), names)
    yield Table(obs, names, _in_rows(matrix), others, source.obs.__getitem__)


def in_old_layout(path: str | Path) -> bool:
    """Tell whether an .h5ad file was written before anndata 0.8, so that only `anndata.read_h5ad` reads it."""
    import h5py

    with reading(path):
        opened = h5py.File(path, "r")
    with opened as file:
        obs: Any = file.get("obs")
        return isinstance(obs, h5py.Dataset) or (obs is not None and "__categories" in obs)


def _open_file(file: Any, used: Sequence[str], place: Place, source: str | Path) -> Table:
    """Take the same from an open file; the matrix stays on disk."""
    import pandas as pd
    from anndata.io import read_elem, sparse_dataset

    obs = _open_obs(file, source)
    known = [name for name in obs if name != obs.attrs["_index"]]
    find_columns(used, known, "obs")
    others = {name: number for name in known if name not in used and (number := _num_values(obs[name])) is not None}
    number = _check_obs(obs, used, source)
    with reading(source):
        frame = pd.DataFrame({name: read_elem(obs[name]) for name in used})
    if place.obsm is not None:
        _check_key(place, file.get("obsm", {}))
        held = file["obsm"][place.obsm]
        if hasattr(held, "shape"):
            _check_shape(held, str(place), (number, held.shape[1]), source)
        names, matrix = _of_obsm(place.obsm, held if hasattr(held, "shape") else read_elem(held))
        return Table(frame, names, matrix, others, lambda name: read_elem(obs[name]))
    layers = file.get("layers", {})
    layer = _check_layer(place.layer, layers, "X" in file, "raw" in file)
    held = file["raw"] if _is_raw(layer, layers) else file
    matrix = layers[layer] if layer is not None and held is file else held["X"]
    with reading(source):
        var = held["var"][held["var"].attrs["_index"]]
        index: Any = read_elem(var)
    _check_shape(matrix, "X" if layer is None else f"Layer {layer!r}", (number, _length(var)), source)
    names = [str(name) for name in index]
    if place.gene_symbols is not None:
        find_columns([place.gene_symbols], list(held["var"]), "var")
        symbols: Any = read_elem(held["var"][place.gene_symbols])
        names = _symbols(place.gene_symbols, list(symbols), names)
    matrix = matrix if hasattr(matrix, "shape") else _in_rows(sparse_dataset(matrix))
    return Table(frame, names, matrix, others, lambda name: read_elem(obs[name]))


def _num_values(column: Any) -> int | None:
    """How many values a column of a file has, or its categories; None for one that is no plain column."""
    import pandas as pd

    if hasattr(column, "shape"):
        return len(pd.unique(column[:])) if len(column.shape) == 1 else None
    if "categories" in column:
        return int(column["categories"].shape[0])  # an array of zarr has no len()
    return _num_values(column["values"]) if "values" in column else None


def _of_obsm(key: str, found: Any) -> tuple[list[str], Any]:
    """Names of the columns of an entry of obsm, its own or ``X_pca0, X_pca1, ...``, and its values."""
    if hasattr(found, "columns"):
        return [str(name) for name in found.columns], found.to_numpy()
    return [f"{key}{column}" for column in range(found.shape[1])], _in_rows(found)


def _symbols(column: str, values: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Names of features from a column of var: those that are there twice get a number, missing ones their own name."""
    import pandas as pd
    from anndata.utils import make_index_unique

    missing = [pd.isna(value) or not str(value).strip() for value in values]
    found = [name if gone else str(value).strip() for value, gone, name in zip(values, missing, names, strict=True)]
    twice = [name for name, count in Counter(found).items() if count > 1]
    if any(missing):
        logging.warning("%r of var is empty for %d features; they keep their own names.", column, sum(missing))
    if twice:
        logging.warning(
            "%r of var has names that come again: %s. These get a number, %r.",
            *(column, first_names(twice), f"{twice[0]}-1"),
        )
    return [str(name) for name in make_index_unique(pd.Index(found, dtype=object))]


def _check_obs(obs: Any, used: Sequence[str], source: str | Path) -> int:
    """How many rows obs has; ``ValueError`` for a column of another length."""
    number = _length(obs[obs.attrs["_index"]])
    for name in used:
        if _length(obs[name]) != number:
            raise ValueError(
                f"{str(source)!r} is damaged: column {name!r} of obs has {_length(obs[name])} rows, and obs has "
                f"{number}. Write the file again."
            )
    return number


def _length(column: Any) -> int:
    """Rows of a column in a file: of an array, or of the codes or values of a group."""
    if hasattr(column, "shape"):
        return int(column.shape[0])
    return int(next(column[part].shape[0] for part in ("codes", "values") if part in column))


def _check_shape(matrix: Any, which: str, expected: tuple[int, int], source: str | Path) -> None:
    """``ValueError`` for a matrix of other lengths than obs and var, or sparse parts that do not fit together."""
    sparse = not hasattr(matrix, "shape")
    found = tuple(int(n) for n in (matrix.attrs["shape"] if sparse else matrix.shape))
    if found != expected:
        raise ValueError(
            f"{which} of {str(source)!r} has shape {found}, and there are {expected[0]} rows of obs and {expected[1]} "
            f"of var. Write the file again, with one of obs for each row of the matrix and one of var for each column."
        )
    if not sparse:
        return
    by_rows = str(matrix.attrs["encoding-type"]).startswith("csr")
    pointers, values, places = (matrix[part] for part in ("indptr", "data", "indices"))
    starts = np.asarray(pointers[:]) if pointers.shape[0] == found[0 if by_rows else 1] + 1 else np.array([-1])
    if starts[0] != 0 or np.any(np.diff(starts) < 0) or not starts[-1] == values.shape[0] == places.shape[0]:
        raise ValueError(
            f"{which} of {str(source)!r} is damaged: its sparse parts do not fit together ({pointers.shape[0]} starts "
            f"for shape {found}, {values.shape[0]} values, {places.shape[0]} places). Write the file again."
        )


def _open_obs(file: Any, source: str | Path) -> Any:
    obs = file.get("obs")
    if not hasattr(obs, "keys") or "_index" not in obs.attrs or "__categories" in obs:
        raise ValueError(
            f"{str(source)!r} has no obs in the layout of anndata 0.8 and later; it has {first_names(list(file))}. "
            f"Pass anndata.read_h5ad(path), or write the file again with a newer anndata."
        )
    return obs


def _in_rows(matrix: Any) -> Any:
    """Rows of a column-compressed matrix on disk are slow to take: such a one comes into memory, sparse."""
    if getattr(matrix, "format", None) != "csc" or not hasattr(matrix, "to_memory"):
        return matrix
    logging.warning("The matrix is compressed by columns, and comes into memory as a whole. Write it by rows (tocsr).")
    return matrix.to_memory().tocsr()


def _is_raw(layer: str | None, layers: Any) -> bool:
    return layer in RAW and layer not in layers


def _check_key(place: Place, known: Any) -> None:
    given = [name for name in ("layer", "gene_symbols") if getattr(place, name) is not None]
    if given:
        raise ValueError(f"{given[0]}={getattr(place, given[0])!r} is not of obsm[{place.obsm!r}]. Leave one out.")
    if place.obsm not in known:
        nearest = nearest_names(str(place.obsm), list(known)) if len(known) else "obsm is empty"
        raise KeyError(f"No {place.obsm!r} in obsm; {nearest}. Pass a key that is there.")


def _check_layer(layer: str | None, known: Any, has_x: bool, has_raw: bool) -> str | None:
    """The layer, None for X: by that name too, where no layer has it."""
    found = [name for name in known if name is not None]  # anndata 0.13 lists X among the layers, as None
    found += [RAW[1]] if has_raw else []
    layer = None if layer == "X" and layer not in found else layer
    if layer is None and not has_x:
        raise ValueError(f"There is no X. Pass layer=<one of {first_names(found)}>.")
    if layer in RAW and has_raw:
        return layer
    if layer is not None and layer not in found:
        nearest = nearest_names(layer, found) if found else "there are no layers"
        raise KeyError(
            f"No layer {layer!r}; {nearest}. Pass a layer that is there; layer=None is X, and layer='X' where the data "
            f"that these cells join were read from a layer."
        )
    return layer

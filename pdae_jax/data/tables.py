"""Tables that data come in: columns and layers found by name, in memory or in a file."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from pdae_jax.data.conditions import Conditions
from pdae_jax.data.entries import read_columns, read_names
from pdae_jax.data.notation import Notation
from pdae_jax.spelling import first_names, nearest_names, unquoted


class Table(NamedTuple):
    """What is needed of an AnnData."""

    obs: Any  # data frame with the asked columns
    features: list[str]
    matrix: Any  # [cells, features], perhaps on disk


@contextlib.contextmanager
def open_anndata(source: Any, columns: Sequence[str], layer: str | None) -> Iterator[Table]:
    """Columns of obs, the feature names and the matrix of an AnnData, an .h5ad file or a .zarr folder.

    Raises:
        KeyError: a column or the layer is missing.
        FileNotFoundError: there is no such file.
        ValueError, TypeError: a file in an old layout, something else than an AnnData.
    """
    if isinstance(source, str | Path):
        import h5py

        if (Path(source) / "zarr.json").is_file() or (Path(source) / ".zgroup").is_file():
            import zarr

            yield _open_file(zarr.open_group(str(source), mode="r"), columns, layer, source)
            return
        if not Path(source).is_file():
            raise FileNotFoundError(
                f"No file {str(source)!r}. Pass the path of an .h5ad file or a .zarr folder, or an AnnData."
            )
        with h5py.File(source, "r") as file:
            yield _open_file(file, columns, layer, source)
        return
    if not all(hasattr(source, name) for name in ("obs", "var_names", "layers")):
        raise TypeError(f"adata is a {type(source).__name__}. Pass an AnnData or the path of an .h5ad file.")
    obs = source.obs.iloc[:, find_columns(columns, [str(name) for name in source.obs.columns], "obs")]
    _check_layer(layer, source.layers, source.X is not None)
    matrix = source.X if layer is None else source.layers[layer]
    yield Table(obs, [str(name) for name in source.var_names], _in_rows(matrix))


def find_columns(names: Sequence[str], known: Sequence[str], where: str) -> list[int]:
    """Positions of named columns, each of which must be there once."""
    counts, position = Counter(known), {name: column for column, name in enumerate(known)}
    for name in names:
        if name not in counts:
            near = unquoted(str(name), counts.__contains__) or nearest_names(str(name), known)
            raise KeyError(f"No {name!r} in {where}; {near}. Pass a name that is there.")
        if counts[name] > 1:
            raise ValueError(f"{name!r} is there {counts[name]} times in {where}. Rename or drop all but one.")
    return [position[name] for name in names]


def column_names(columns: str | Sequence[str | None] | None) -> list[Any]:
    """One column name, several or none, as a list."""
    return [] if columns is None else [columns] if isinstance(columns, str) else list(columns)


def read_conditions(columns: Any, dosed: Sequence[str | None], notation: Notation) -> Conditions:
    """Conditions from a frame: first columns with names, then those of `dosed` that are not None.

    Args:
        columns: the data frame.
        dosed: columns with doses; None where the names of a column have none, as those of cell types.
        notation: how the data set is written.

    Raises:
        ValueError: a name is missing, there are not as many columns of doses as of names; see also `read_columns`.
    """
    num_doses = len(dosed)
    num_names = columns.shape[1] - sum(name is not None for name in dosed)
    if num_names < 1 or num_doses not in (0, 1, num_names):
        raise ValueError(
            f"{num_names} condition columns and {num_doses} dose columns. Pass one condition column or more, and no "
            f"dose column, one, or one for each."
        )
    for column in range(num_names):
        missing = np.flatnonzero(columns.iloc[:, column].isna().to_numpy())
        if len(missing):
            more = " If these have no second perturbation, fill in the name of the control." if num_names > 1 else ""
            raise ValueError(
                f"Column {columns.columns[column]!r} is missing in {len(missing)} cells, the first in row "
                f"{missing[0]}. Name the condition of every cell, or drop these.{more}"
            )
    values = [columns.iloc[:, column].tolist() for column in range(columns.shape[1])]
    if len(values) == 1:
        return read_names(values[0], notation)
    found = iter(values[num_names:])
    doses = [next(found) if name is not None else [1.0] * len(columns) for name in dosed]
    return read_columns(values[:num_names], doses, notation)


def _open_file(file: Any, used: Sequence[str], layer: str | None, source: str | Path) -> Table:
    """The same from an open file; the matrix stays on disk."""
    import pandas as pd
    from anndata.io import read_elem, sparse_dataset

    obs = _open_obs(file, source)
    known = [name for name in obs if name != obs.attrs["_index"]]
    find_columns(used, known, "obs")
    _check_layer(layer, file.get("layers", {}), "X" in file)
    matrix = file["X"] if layer is None else file["layers"][layer]
    names: Any = read_elem(file["var"][file["var"].attrs["_index"]])
    return Table(
        pd.DataFrame({name: read_elem(obs[name]) for name in used}),
        [str(name) for name in names],
        matrix if hasattr(matrix, "shape") else _in_rows(sparse_dataset(matrix)),
    )


def _open_obs(file: Any, source: str | Path) -> Any:
    obs = file.get("obs")
    if not hasattr(obs, "keys") or "_index" not in obs.attrs or "__categories" in obs:
        raise ValueError(
            f"{str(source)!r} has no obs in the layout of anndata 0.8 and later; it has {first_names(list(file))}. "
            f"Pass anndata.read_h5ad(path), or write the file again with a newer anndata."
        )
    return obs


def in_old_layout(path: str | Path) -> bool:
    """Whether an .h5ad file was written before anndata 0.8, so that only `anndata.read_h5ad` reads it."""
    import h5py

    with h5py.File(path, "r") as file:
        obs: Any = file.get("obs")
        return isinstance(obs, h5py.Dataset) or (obs is not None and "__categories" in obs)


def _in_rows(matrix: Any) -> Any:
    """Rows of a column-compressed matrix on disk are slow to take: such a one comes into memory, sparse."""
    if getattr(matrix, "format", None) != "csc" or not hasattr(matrix, "to_memory"):
        return matrix
    logging.warning("The matrix is compressed by columns, and comes into memory as a whole. Write it by rows (tocsr).")
    return matrix.to_memory().tocsr()


def _check_layer(layer: str | None, known: Any, has_x: bool) -> None:
    found = [name for name in known if name is not None]  # anndata 0.13 lists X among the layers, as None
    if layer is None and not has_x:
        raise ValueError(f"There is no X. Pass layer=<one of {first_names(found)}>.")
    if layer is not None and layer not in found:
        nearest = nearest_names(layer, found) if found else "there are no layers"
        raise KeyError(f"No layer {layer!r}; {nearest}. Pass a layer that is there, or layer=None for X.")

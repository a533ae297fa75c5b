"""Cells that stay in files: a matrix whose rows are read when they are asked for."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.damage import reading

MANIFEST_FILE = "cells.json"
PART_ROWS = 1 << 16  # rows of the matrix in one part: positions within it fit 32 bits
BLOCK_ROWS = 4096  # made dense at a time


class StoredCells:
    """A stand-in for the matrix of `PerturbationData` where that is larger than memory.

    Made by ``pdae_jax.from_anndata(..., store=folder)``, see `data.stored`. Rows are taken as from an array, by
    positions in any order or by a slice, and come as a dense float32 array. Files are mapped into memory: the system
    keeps of them what it has room for.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self,
        folder: pathlib.Path | str,
        *,
        rows: Int[np.ndarray, " cells"] | None = None,
        columns: Int[np.ndarray, " features"] | None = None,
        parts: dict[int, Any] | None = None,
    ):
        self.folder = pathlib.Path(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder)
        self.rows = np.arange(self.manifest["num_cells"]) if rows is None else rows  # of the files
        self.kept_columns = columns  # of the files; None: all
        self.shape = (len(self.rows), self.manifest["num_features"] if columns is None else len(columns))
        self._parts = {} if parts is None else parts  # mapped files, shared by all selections of one store

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Float[np.ndarray, "*rows features"]:
        rows = self.rows[rows]
        if np.ndim(rows) == 0:
            return self._read(np.array([rows]))[0]
        return self._read(rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_parts": {}}  # the files, and not what was read of them

    def _read(self, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
        """Rows of the files."""
        out = np.empty((len(rows), self.shape[1]), np.float32)
        part, inside = np.divmod(rows, PART_ROWS)
        for number in np.unique(part):
            here = np.flatnonzero(part == number)
            block = self._part(int(number))[inside[here]]
            block = block.toarray() if hasattr(block, "toarray") else block
            out[here] = block if self.kept_columns is None else block[:, self.kept_columns]
        return out

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            f"These {self.shape[0]} cells stay in {str(self.folder)!r}: as a whole they may not fit into memory. Take "
            f"rows, as in data.x[:1000], or data.blocks()."
        )

    def take(self, rows: Int[np.ndarray, " kept"] | slice) -> "StoredCells":
        """Return these rows only; nothing is read."""
        return StoredCells(self.folder, rows=self.rows[rows], columns=self.kept_columns, parts=self._parts)

    def with_columns(self, columns: Int[np.ndarray, " kept"]) -> "StoredCells":
        """Return these columns only; nothing is read."""
        columns = columns if self.kept_columns is None else self.kept_columns[columns]
        return StoredCells(self.folder, rows=self.rows, columns=columns, parts=self._parts)

    def _part(self, number: int) -> Any:
        """A part of the matrix, mapped into memory."""
        if number not in self._parts:
            self._parts[number] = open_part(self.folder, number, self.manifest)
        return self._parts[number]


def blocks(
    x: Float[np.ndarray, "cells features"] | StoredCells, rows: Int[np.ndarray, " n"] | None = None
) -> Iterator[Float[np.ndarray, "_ features"]]:
    """Yield a matrix, or some of its rows, in dense blocks of few rows."""
    number = len(x) if rows is None else len(rows)
    for start in range(0, number, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield x[part] if rows is None else x[rows[part]]


def evenly_spaced(number: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Return the positions of at most `most` of `number` rows, from the first to the last."""
    return np.linspace(0, number - 1, min(number, most)).astype(int)


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Read what a store says of itself; ``FileNotFoundError`` if there is none."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"No cells in {str(folder)!r}: it has no {MANIFEST_FILE}. Read the data again with store={str(folder)!r}."
        )
    with reading(path):
        manifest = json.loads(path.read_text())
        if not {"identity", "sparse", "num_features"} <= set(manifest):
            raise ValueError(f"it has {sorted(manifest)}")
        return manifest


def open_part(folder: pathlib.Path, number: int, manifest: dict[str, Any]) -> Any:
    """Open one part of a store: dense, or sparse with three mapped arrays."""

    def mapped(kind: str) -> np.ndarray:
        with reading(part_file(folder, number, kind)):
            return np.load(part_file(folder, number, kind), mmap_mode="r")

    if not manifest["sparse"]:
        return mapped("x")
    import scipy.sparse

    arrays = [mapped(kind) for kind in ("data", "indices", "indptr")]
    rows = len(arrays[2]) - 1
    part = scipy.sparse.csr_array((rows, manifest["num_features"]), dtype=np.float32)
    part.data, part.indices, part.indptr = arrays  # as they are: the constructor would look at every one
    return part


def part_file(folder: pathlib.Path, number: int, kind: str) -> pathlib.Path:
    """Return the path of one array of a part."""
    return folder / f"{number:05d}.{kind}.npy"

"""Cells larger than memory: one pass through a file puts what is needed into a folder, from which rows are read.

A compressed file gives single rows slowly, and training takes other cells in every step. So the file is read once from
beginning to end, a block at a time; the kept features, normalised, then lie in the folder uncompressed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
import numpy as np
import scipy.sparse
from absl import logging
from jaxtyping import Bool
from tqdm import tqdm

from pdae_jax.cells import BLOCK_ROWS, MANIFEST_FILE, PART_ROWS, StoredCells, part_file, read_manifest
from pdae_jax.data.counts import ShownSizes, Sized, check_counts, log_sizes, normalised_in_place
from pdae_jax.data.observations import check_values, check_varying, read_observations, row_totals

_SPARSE = 0.3  # at most this share of the values is not zero: beside each that is not there lies its column
_SIZES_FILE = "size_factors.npy"
_VARYING_FILE = "varying.npy"
_LAYOUT = 1  # of the files; another number is written anew


def store_cells(
    folder: str | pathlib.Path,
    matrix: Any,
    features: Sequence[str],
    columns: Any,
    *,
    normalize: bool,
    source: str,
    may_be_constant: bool = False,
) -> Sized:
    """The cells of a matrix in a folder; what lies there is used again if it was made of the same.

    Args:
        folder: made if it is not there. Of a folder that holds other cells nothing is changed.
        matrix: ``[cells, all features]``, dense or compressed by rows, perhaps on disk.
        features: names of those to keep.
        columns: their positions; None: all.
        normalize: as in `pdae_jax.from_arrays`.
        source: says what the matrix is, the same for the same matrix.
        may_be_constant: features may be the same in all cells.

    Raises:
        ValueError: values as in `check_values`, or a folder that holds other cells or something else.
    """
    path = pathlib.Path(folder).expanduser().absolute()
    identity = {
        "layout": _LAYOUT,
        "source": source,
        "normalize": normalize,
        "features": hashlib.sha256("\n".join(features).encode()).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):  # two runs of a sweep may come at once
        if not _is_made(path, identity):
            with _new_folder(path) as partial:
                _write(partial, matrix, features, columns, identity, normalize, may_be_constant)
    sizes = path / _SIZES_FILE
    return Sized(StoredCells(path), np.load(sizes) if sizes.exists() else None)


def varying_columns(x: StoredCells) -> Bool[np.ndarray, " features"]:
    """Which features are not the same in all cells of the store."""
    return np.load(x.folder / _VARYING_FILE)


def identity_of_file(path: str | pathlib.Path, layer: str | None) -> str:
    """Path, size and time of a file: as long as these stay, so do its cells."""
    file = pathlib.Path(path).absolute()
    files = [each.stat() for each in (file.rglob("*") if file.is_dir() else [file])]
    size, latest = sum(each.st_size for each in files), max(each.st_mtime_ns for each in files)
    return f"{file}, {size} bytes, {latest} ns, layer {layer}"


def _is_made(path: pathlib.Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds these cells; ``ValueError`` if it holds others."""
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / MANIFEST_FILE).exists():
        raise ValueError(f"The folder {str(path)!r} holds something else than cells. Pass store=<a new folder>.")
    found = read_manifest(path)["identity"]
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"The folder {str(path)!r} holds other cells: {different[0]} is {found.get(different[0])!r} there and "
            f"{identity[different[0]]!r} here. Delete it, or pass store=<another folder>."
        )
    logging.info("The cells lie in %s already.", path)
    return True


@contextlib.contextmanager
def _new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that appears whole or not at all."""
    prefix = f".{path.name}.partial."
    for old in path.parent.glob(f"{prefix}*"):  # of a process that was killed: the lock is ours
        shutil.rmtree(old, ignore_errors=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    partial.chmod(path.parent.stat().st_mode & 0o777)  # as readable as where it lies
    try:
        yield partial
        if path.exists():
            path.rmdir()  # empty, as `_is_made` has seen
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: pathlib.Path,
    matrix: Any,
    features: Sequence[str],
    columns: Any,
    identity: dict[str, Any],
    normalize: bool,
    may_be_constant: bool,
) -> None:
    number, start = matrix.shape[0], read_observations(matrix[:BLOCK_ROWS], columns)
    raw = np.all(np.isfinite(start)) and check_counts(start, normalize)
    shown = None if raw else ShownSizes(start)
    sparse = bool(np.mean(start != 0) <= _SPARSE)
    low, high, sizes = np.full(len(features), np.inf), np.full(len(features), -np.inf), []
    part: list[Any] = []
    for first in tqdm(range(0, number, BLOCK_ROWS), desc="read cells", unit="block", disable=None):
        rows = matrix[first : first + BLOCK_ROWS]
        x = read_observations(rows, columns)
        check_values(x, features, may_be_constant=True, first=first)
        if normalize:
            if not np.array_equal(x, np.round(x)) or x.min() < 0:
                raise ValueError(
                    f"normalize=True, but cells {first} to {first + len(x) - 1} are no raw counts, as those before are."
                )
            sizes.append(normalised_in_place(x, row_totals(rows), first=first))
        elif shown is not None:
            shown.add(x)
        low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        part.append(scipy.sparse.csr_array(x) if sparse else x)
        if (first + len(x)) % PART_ROWS == 0 or first + len(x) == number:
            _write_part(folder, first // PART_ROWS, part, sparse)
            part = []
    if not may_be_constant:
        check_varying(low, high, features, number)
    np.save(folder / _VARYING_FILE, low != high)
    found = np.concatenate(sizes) if normalize else None if shown is None else shown.result()
    log_sizes(found, normalize)
    if found is not None:
        np.save(folder / _SIZES_FILE, found)
    manifest = {"num_cells": number, "num_features": len(features), "sparse": sparse, "identity": identity}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")


def _write_part(folder: pathlib.Path, number: int, blocks: list[Any], sparse: bool) -> None:
    if not sparse:
        np.save(part_file(folder, number, "x"), np.concatenate(blocks))
        return
    part: Any = scipy.sparse.vstack(blocks, format="csr")
    for kind, array in {"data": part.data, "indices": part.indices, "indptr": part.indptr}.items():
        np.save(part_file(folder, number, kind), array.astype(np.float32 if kind == "data" else np.int32))

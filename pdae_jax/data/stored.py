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
from typing import Any, NamedTuple

import filelock
import numpy as np
import scipy.sparse
from absl import logging
from jaxtyping import Bool
from tqdm import tqdm

from pdae_jax.cells import BLOCK_ROWS, MANIFEST_FILE, PART_ROWS, StoredCells, part_file, read_manifest
from pdae_jax.data.normalisation import ShownSizes, Sized, check_counts, log_sizes, normalised_in_place
from pdae_jax.data.observations import check_values, check_varying, read_observations, row_totals
from pdae_jax.data.values import Treatment, arcsinh_in_place

_SPARSE = 0.3  # at most this share of the values is not zero: beside each that is not there lies its column
_SIZES_FILE = "size_factors.npy"
_VARYING_FILE = "varying.npy"
_LAYOUT = 1  # of the files; another number is written anew


class Content(NamedTuple):
    """The content of a file, as far as it is known without reading it, and read when that is not enough."""

    path: pathlib.Path
    layer: str | None

    def mark(self) -> list[Any]:
        """Return sizes and times of the files, and their places on the disk: no content changes without one of them.

        Times of change (``ctime``) cannot be set, as those of modification can.
        """
        found = {str(file): file.stat() for file in self._files()}
        return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_dev, s.st_ino] for name, s in found.items()]

    def digest(self) -> str:
        """Return the SHA-256 of all that the files hold, and the layer."""
        digest = hashlib.sha256()
        for file in self._files():
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.relative_to(self.path)} {found}\n".encode())
        return f"sha256 {digest.hexdigest()}, layer {self.layer}"

    def of_older_versions(self) -> str:
        """Return what folders of older versions say of the file: its path, size and time."""
        found = [each.stat() for each in (self.path.rglob("*") if self.path.is_dir() else [self.path])]
        size, latest = sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)
        return f"{self.path}, {size} bytes, {latest} ns, layer {self.layer}"

    def _files(self) -> list[pathlib.Path]:
        inside = sorted(file for file in self.path.rglob("*") if file.is_file())
        return inside if self.path.is_dir() else [self.path]


def store_cells(
    folder: str | pathlib.Path,
    matrix: Any,
    features: Sequence[str],
    columns: Any,
    treatment: Treatment,
    source: Content,
    *,
    are_counts: bool = False,
    may_be_constant: bool = False,
) -> Sized:
    """Write the cells of a matrix into a folder; what lies there is used again if it was made of the same.

    Args:
        folder: made if it is not there. Of a folder that holds other cells nothing is changed.
        matrix: ``[cells, all features]``, dense or compressed by rows, perhaps on disk.
        features: names of those to keep.
        columns: their positions; None: all.
        treatment: what is done to the values.
        source: says what the matrix is, the same for the same matrix.
        are_counts: the file has counts, also where the kept features do not show that, see `check_counts`.
        may_be_constant: features may be the same in all cells.

    Raises:
        ValueError: values as in `check_values`, or a folder that holds other cells or something else.
    """
    path = pathlib.Path(folder).expanduser().absolute()
    identity = {
        "layout": _LAYOUT,
        "normalize": treatment.normalize,
        "features": hashlib.sha256("\n".join(features).encode()).hexdigest(),
    }
    if treatment.arcsinh is not None:
        identity["arcsinh"] = treatment.arcsinh
    if treatment.totals is not None:
        identity["totals"] = hashlib.sha256(treatment.totals.tobytes()).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):  # two runs of a sweep may come at once
        if not _is_made(path, identity, source):
            with _new_folder(path) as partial:
                found = _write(partial, matrix, features, columns, treatment, are_counts, may_be_constant)
                _write_manifest(partial, found, identity, source)
    sizes = path / _SIZES_FILE
    return Sized(StoredCells(path), np.load(sizes) if sizes.exists() else None)


def varying_columns(x: StoredCells) -> Bool[np.ndarray, " features"]:
    """Find which features are not the same in all cells of the store."""
    return np.load(x.folder / _VARYING_FILE)


def content_of(path: str | pathlib.Path, layer: str | None) -> Content:
    """Return the content of a layer of a file, or of X."""
    return Content(pathlib.Path(path).absolute(), layer)


def _is_made(path: pathlib.Path, identity: dict[str, Any], source: Content) -> bool:
    """Tell whether the folder holds these cells; ``ValueError`` if it holds others."""
    if not path.exists() or not any(path.iterdir()):
        return False
    if not (path / MANIFEST_FILE).exists():
        raise ValueError(f"The folder {str(path)!r} holds something else than cells. Pass store=<a new folder>.")
    manifest = read_manifest(path)
    found = manifest["identity"]
    different = [name for name in identity if found.get(name) != identity[name]]
    if different:
        raise ValueError(
            f"The folder {str(path)!r} holds other cells: {different[0]} is {found.get(different[0])!r} there and "
            f"{identity[different[0]]!r} here. Delete it, or pass store=<another folder>."
        )
    same = manifest.get("mark") == [source.layer, *source.mark()] or found["source"] == source.of_older_versions()
    if not same and found["source"] != source.digest():
        raise ValueError(
            f"The folder {str(path)!r} holds other cells: they were not read from what {str(source.path)!r} holds now, "
            f"but from {found['source']}. Delete the folder, or pass store=<another folder>."
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
    treatment: Treatment,
    are_counts: bool,
    may_be_constant: bool,
) -> dict[str, Any]:
    """Writes the cells; returns what the manifest says of them."""
    normalize = treatment.normalize
    number, start = matrix.shape[0], read_observations(matrix[:BLOCK_ROWS], columns)
    raw = bool(np.all(np.isfinite(start))) and treatment.arcsinh is None and check_counts(start, normalize, are_counts)
    shown = None if raw or treatment.arcsinh is not None else ShownSizes(start)
    sparse = bool(np.mean(start != 0) <= _SPARSE)
    low, high, sizes = np.full(len(features), np.inf), np.full(len(features), -np.inf), []
    part: list[Any] = []
    for first in tqdm(range(0, number, BLOCK_ROWS), desc="read cells", unit="block", disable=None):
        rows = matrix[first : first + BLOCK_ROWS]
        x = read_observations(rows, columns)
        check_values(x, features, may_be_constant=True, first=first)
        if normalize:
            if x.min() < 0 or (raw and not np.array_equal(x, np.round(x))):
                raise ValueError(
                    f"normalize=True, but cells {first} to {first + len(x) - 1} are no raw counts, as those before are."
                )
            totals = row_totals(rows) if treatment.totals is None else treatment.totals[first : first + len(x)]
            sizes.append(normalised_in_place(x, totals, first=first))
        elif treatment.arcsinh is not None:
            arcsinh_in_place(x, treatment.arcsinh)
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
    found = (np.concatenate(sizes) if raw else None) if normalize else None if shown is None else shown.result()
    log_sizes(found, normalize)
    if found is not None:
        np.save(folder / _SIZES_FILE, found)
    return {"num_cells": number, "num_features": len(features), "sparse": sparse}


def _write_manifest(folder: pathlib.Path, found: dict[str, Any], identity: dict[str, Any], source: Content) -> None:
    """Write what the store holds, and of what it was made; last, after the file was read."""
    manifest = found | {
        "identity": {"source": source.digest()} | identity,
        "mark": [source.layer, *source.mark()],
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")


def _write_part(folder: pathlib.Path, number: int, blocks: list[Any], sparse: bool) -> None:
    if not sparse:
        np.save(part_file(folder, number, "x"), np.concatenate(blocks))
        return
    part: Any = scipy.sparse.vstack(blocks, format="csr")
    for kind, array in {"data": part.data, "indices": part.indices, "indptr": part.indptr}.items():
        np.save(part_file(folder, number, kind), array.astype(np.float32 if kind == "data" else np.int32))

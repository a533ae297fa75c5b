"""Perturbation data as one ``.npz`` of plain arrays (no pickle), and its fingerprint."""

import dataclasses
import hashlib
import json
import os
import pathlib
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from pdae_jax.cells import MANIFEST_FILE, StoredCells
from pdae_jax.runs.files import damaged, read_arrays, write_arrays
from pdae_jax.types import PerturbationData, Reading, once_for_each, read_only

_ARRAYS = ("condition_index", "labels")
_NAMES = ("conditions", "perturbations", "features")
_SIZES = "size_factors"  # of counts only
_STRATA = "strata"  # of data that have some
_STRINGS = ("control", "separator")
_READING = "reading"  # JSON; not in runs of older versions, and no part of the identity


# Files of data sets that this process has written, and how to know them again. State, because runs that know nothing of
# each other share one file of one data set; weak, so that it holds no data.
_written: weakref.WeakKeyDictionary[PerturbationData, tuple[pathlib.Path, tuple[int, ...]]] = (
    weakref.WeakKeyDictionary()
)


def save_data(path: pathlib.Path, data: PerturbationData) -> None:
    """Write a data set; the file appears whole or not at all.

    A file is never changed afterwards, so a second one of the same data is a link to the first, where the file system
    has links: a population takes the room of one run.
    """
    if data in _written and _linked(*_written[data], path):
        return
    write_arrays(path, data_arrays(data))
    _written[data] = path, _mark(path)


def _linked(file: pathlib.Path, mark: tuple[int, ...], path: pathlib.Path) -> bool:
    """Make `path` a link to the file, where it is still what it was; else False."""
    try:
        if _mark(file) == mark:
            os.link(file, path)
            return True
    except OSError:  # it is gone, or on another file system
        pass
    return False


def holds(path: pathlib.Path, data: PerturbationData) -> bool:
    """Tell whether a file has a data set."""
    if data in _written and _written[data][1] == _mark(path):
        return True
    there = load_data(path, store=data.x.folder if isinstance(data.x, StoredCells) else None)
    if fingerprint(there) != fingerprint(data):
        return False
    _written[data] = path, _mark(path)
    return True


def _mark(file: pathlib.Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def data_arrays(data: PerturbationData) -> dict[str, np.ndarray]:
    """Return the fields of a data set as plain arrays, by name; those that are None are left out.

    Cells that stay in files are named by their folder, and by their rows and columns in it.
    """
    arrays = {name: getattr(data, name) for name in (*_ARRAYS, _SIZES) if getattr(data, name) is not None}
    if data.strata:
        arrays[_STRATA] = np.array(data.strata, dtype=np.str_)
    if data.reading is not None:
        arrays[_READING] = np.array(json.dumps(dataclasses.asdict(data.reading)))
    return (
        _cells_arrays(data.x)
        | arrays
        | {name: np.array(getattr(data, name), dtype=np.str_) for name in (*_NAMES, *_STRINGS)}
    )


def _cells_arrays(x: np.ndarray | StoredCells) -> dict[str, np.ndarray]:
    if not isinstance(x, StoredCells):
        return {"x": x}
    arrays = {"store": np.array(str(x.folder)), "store_identity": np.array(_identity(x)), "store_rows": x.rows}
    return arrays if x.kept_columns is None else arrays | {"store_columns": x.kept_columns}


def _identity(x: StoredCells) -> str:
    return json.dumps(x.manifest["identity"], sort_keys=True)


def _read_cells(arrays: Mapping[str, np.ndarray], store: str | pathlib.Path | None) -> np.ndarray | StoredCells:
    if "x" in arrays:
        if store is not None:
            raise ValueError(f"store={str(store)!r}, but the cells of this run lie in its own folder. Leave store out.")
        return read_only(arrays["x"])
    place = str(arrays["store"] if store is None else store)
    if not (pathlib.Path(place) / MANIFEST_FILE).exists():
        raise FileNotFoundError(
            f"The cells of this run are not in {place!r}. If the folder was moved, pass store=<where it is now> to "
            f"load_run or load_ensemble, or --store on the command line."
        )
    x = StoredCells(place, rows=arrays["store_rows"], columns=arrays.get("store_columns"))
    if _identity(x) != str(arrays["store_identity"]):
        raise ValueError(
            f"The folder {str(x.folder)!r} holds other cells than those that were used: {_identity(x)} now, "
            f"{arrays['store_identity']} then. Put them back, or repeat the run with another workdir."
        )
    return x


def load_data(path: pathlib.Path, store: str | pathlib.Path | None = None) -> PerturbationData:
    """Read what `save_data` wrote; cells that stay in files from the folder `store`, where theirs has been moved."""
    if not path.exists():
        raise FileNotFoundError(f"No data at {path}. A run folder holds its data beside config.json; pass its path.")
    arrays = read_arrays(path)
    missing = [name for name in (*_ARRAYS, *_NAMES, *_STRINGS) if name not in arrays]
    if missing:
        raise damaged(path, KeyError(missing[0]))
    fields: dict[str, Any] = {name: read_only(arrays[name]) for name in (*_ARRAYS, _SIZES) if name in arrays}
    fields["x"] = _read_cells(arrays, store)
    fields |= {name: tuple(arrays[name].tolist()) for name in (*_NAMES, _STRATA) if name in arrays}
    fields |= {name: str(arrays[name]) for name in _STRINGS}
    if _READING in arrays:
        fields[_READING] = Reading(**json.loads(str(arrays[_READING])))
    return PerturbationData(**fields)


def fingerprint(data: PerturbationData | None) -> str | None:
    """Return the SHA-256 of the cells, labels and names; None for no data."""
    return None if data is None else _fingerprint(data)


@once_for_each
def _fingerprint(data: PerturbationData) -> str:
    digest = hashlib.sha256()
    cells = _cells_arrays(data.x)
    cells.pop("store", None)  # a folder may be moved
    for array in (*cells.values(), *(getattr(data, name) for name in _ARRAYS)):
        digest.update(np.ascontiguousarray(array).tobytes())
    if data.size_factors is not None:
        digest.update(np.ascontiguousarray(data.size_factors).tobytes())
    if data.strata:
        digest.update(repr(data.strata).encode())
    for name in (*_NAMES, *_STRINGS):
        digest.update(repr(getattr(data, name)).encode())
    return digest.hexdigest()

"""Perturbation data as one ``.npz`` of plain arrays (no pickle), and its fingerprint."""

import hashlib
import pathlib
from typing import Any

import numpy as np

from pdae_jax.runs.files import read_arrays, write_arrays
from pdae_jax.types import PerturbationData

_ARRAYS = ("x", "condition_index", "labels")
_NAMES = ("conditions", "perturbations", "features")
_SIZES = "size_factors"  # of counts only
_STRINGS = ("control", "separator")


def save_data(path: pathlib.Path, data: PerturbationData) -> None:
    """Write a data set; the file appears whole or not at all."""
    write_arrays(path, data_arrays(data))


def data_arrays(data: PerturbationData) -> dict[str, np.ndarray]:
    """The fields of a data set as plain arrays, by name; those that are None are left out."""
    arrays = {name: getattr(data, name) for name in (*_ARRAYS, _SIZES) if getattr(data, name) is not None}
    return arrays | {name: np.array(getattr(data, name), dtype=np.str_) for name in (*_NAMES, *_STRINGS)}


def load_data(path: pathlib.Path) -> PerturbationData:
    """Read what `save_data` wrote."""
    if not path.exists():
        raise FileNotFoundError(f"No data at {path}. A run folder holds its data beside config.json; pass its path.")
    arrays = read_arrays(path)
    fields: dict[str, Any] = {name: arrays[name] for name in (*_ARRAYS, _SIZES) if name in arrays}
    fields |= {name: tuple(arrays[name].tolist()) for name in _NAMES}
    fields |= {name: str(arrays[name]) for name in _STRINGS}
    return PerturbationData(**fields)


def fingerprint(data: PerturbationData | None) -> str | None:
    """SHA-256 of the cells, labels and names; None for no data."""
    if data is None:
        return None
    digest = hashlib.sha256()
    for name in _ARRAYS:
        digest.update(np.ascontiguousarray(getattr(data, name)).tobytes())
    if data.size_factors is not None:
        digest.update(np.ascontiguousarray(data.size_factors).tobytes())
    for name in (*_NAMES, *_STRINGS):
        digest.update(repr(getattr(data, name)).encode())
    return digest.hexdigest()

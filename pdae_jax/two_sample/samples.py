"""What users pass as a sample, as an array: NumPy, JAX, SciPy sparse, AnnData, a data frame or a list."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.types import AnyArray

#: What statistics and tests take: see `as_sample`.
SampleLike = Any


def as_sample(x: Any, name: str = "x") -> AnyArray:
    """Return a sample as an array of floating-point numbers; such arrays as they are, so that JAX can trace them.

    Args:
        x: ``[cells, features]``: an array, a SciPy sparse matrix (made dense), an AnnData (its ``X``), a data frame
            with numeric columns, or a list of rows.
        name: of the argument, for messages.

    Raises:
        TypeError: something else, or values that are not numbers.
        ValueError: an AnnData without ``X``; rows of different lengths.
    """
    if isinstance(x, jax.Array):
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
    if _is_anndata(x):
        x = _matrix(x, name)
    elif _is_frame(x):
        x = _numeric(x, name)
    for attribute, instead in (("samples", "prediction.samples"), ("conditions", "data.cells(<condition>)")):
        if hasattr(x, attribute):
            raise TypeError(f"{name} is a {type(x).__name__}, not a sample. Pass {instead}.")
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has values that are masked, that is, missing. Drop these cells or features first.")
    x = x.to_memory() if hasattr(x, "to_memory") else x  # a sparse matrix on disk
    array = _as_array(x.toarray() if hasattr(x, "toarray") else x, name)
    # JAX's bfloat16 has no kind of its own in NumPy
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"{name} is a {type(x).__name__} of dtype {array.dtype}, which is not numeric. Pass real numbers, "
            f"[cells, features], such as x.astype('float32')."
        )
    return array.astype(np.float64) if array.dtype.kind in "iub" else array


def as_samples(x: Any, y: Any, names: tuple[str, str] = ("x", "y")) -> tuple[AnyArray, AnyArray]:
    """Return two samples as arrays; where both name their features, these must agree.

    Raises:
        TypeError, ValueError: see `as_sample`; the features differ, or are in another order.
    """
    features = [_features(sample) for sample in (x, y)]
    if features[0] is not None and features[1] is not None and features[0] != features[1]:
        wrong = [name for name in features[0] if name not in features[1]]
        found = f"{names[1]} has no {wrong[0]!r}" if wrong else "the order or number differs"
        raise ValueError(
            f"{names[0]} and {names[1]} do not have the same features: {found}. Pass the same columns in one order."
        )
    return as_sample(x, names[0]), as_sample(y, names[1])


def _is_anndata(x: Any) -> bool:
    return hasattr(x, "obs") and hasattr(x, "var_names")


def _is_frame(x: Any) -> bool:
    return hasattr(x, "columns") and hasattr(x, "dtypes")


def _features(sample: Any) -> list[Any] | None:
    """Names of the columns of an AnnData or a data frame, if they have any."""
    names = sample.var_names if _is_anndata(sample) else sample.columns if _is_frame(sample) else None
    return None if names is None or list(names) == list(range(len(names))) else list(names)


def _matrix(adata: Any, name: str) -> Any:
    if adata.X is None:
        raise ValueError(f"{name} is an AnnData without X. Pass a layer, such as adata.layers['counts'].")
    return adata.X


def _numeric(frame: Any, name: str) -> np.ndarray:
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if getattr(dtype, "kind", "O") not in "fiub":
            raise TypeError(
                f"{name} has the column {str(column)!r}, which is not numeric (dtype {dtype}). Drop it: pass "
                f"frame[<the columns with observations>]."
            )
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _as_array(x: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is a {type(x).__name__} that is no matrix ({error}). Pass rows of one length, [cells, features]."
        ) from None

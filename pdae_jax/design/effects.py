"""Effects of labels: `phi`, the gain of combinations, and the units of doses."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from pdae_jax.types import AnyArray

_BITS = 20  # of a label that count


def is_perturbed(label: Float[AnyArray, "*batch perturbations"]) -> Float[AnyArray, "*batch 1"]:
    """Return one where a dose is not zero; of NumPy and of JAX arrays."""
    xp = np if isinstance(label, np.ndarray) else jnp
    return xp.any(label != 0, axis=-1, keepdims=True).astype(label.dtype)


def effective_label(
    label: Float[AnyArray, "*batch perturbations"], saturation: float | AnyArray
) -> Float[AnyArray, "*batch perturbations"]:
    """Apply `phi`: the label times the gain of its order; of NumPy and of JAX arrays."""
    xp = np if isinstance(label, np.ndarray) and not isinstance(saturation, jax.Array) else jnp
    order = xp.maximum(xp.sum(label != 0, axis=-1, keepdims=True), 1).astype(label.dtype)
    return label * xp.exp(-saturation * xp.log(order))


def dose_units(labels: Float[np.ndarray, "conditions perturbations"]) -> Float[np.ndarray, " perturbations"]:
    """The largest size of the doses of each perturbation: the unit in which nM and uM are the same experiment."""
    largest = np.max(np.abs(labels.astype(np.float64)), axis=0, initial=0.0)
    return np.where(largest > 0, largest, 1.0)


def in_dose_units(
    label: Float[np.ndarray, "*batch perturbations"], units: Float[np.ndarray, " perturbations"]
) -> Float[np.ndarray, "*batch perturbations"]:
    """Labels over their units, to six digits: what the factor between nM and uM does to a float32 leaves no trace."""
    mantissa, exponent = np.frexp(np.asarray(label, np.float64) / units)
    return np.ldexp(np.round(mantissa * 2**_BITS) / 2**_BITS, exponent).astype(np.float32)


def dose_status(
    labels: Float[np.ndarray, "conditions perturbations"], label: Float[np.ndarray, " perturbations"]
) -> str:
    """Tell whether the doses of a label are among those that were measured, each perturbation by itself.

    Returns:
        ``measured``: each dose is in some condition, or 0; ``between``: one is not, but lies between doses that are (0
        is one of them); ``beyond``: one lies outside of them.
    """
    new, known = new_doses(labels, label), np.asarray(labels, np.float64)
    outside = (label < np.min(known, axis=0, initial=0.0)) | (label > np.max(known, axis=0, initial=0.0))
    return "beyond" if np.any(new & outside) else "between" if new.any() else "measured"


def new_doses(
    labels: Float[np.ndarray, "conditions perturbations"], label: Float[np.ndarray, " perturbations"]
) -> Bool[np.ndarray, " perturbations"]:
    """Which doses of a label no condition has."""
    units = dose_units(labels)
    known, asked = np.asarray(labels, np.float64) / units, np.asarray(label, np.float64) / units
    return (asked != 0) & ~np.any(np.isclose(known, asked, rtol=1e-5, atol=0.0), axis=0)

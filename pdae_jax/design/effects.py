"""Effects of labels: what doses count for, and the gain of combinations; together `phi`."""

from typing import NamedTuple

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


class Doses(NamedTuple):
    """What the dose of each perturbation counts for, by itself: linear, 0 at no dose and 1 at the largest.

    The place of a dose-response: whatever form it has, `scaled` is it, and `dose` its inverse.
    """

    unit: Float[np.ndarray, " perturbations"]  # the largest dose; 1 for a perturbation that was never given

    def scaled(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Scale doses to what they count for, in float64."""
        return np.asarray(label, np.float64) / self.unit

    def dose(self, scaled: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Find the doses that count for so much."""
        return scaled * self.unit

    def row(self, label: Float[np.ndarray, "*batch perturbations"]) -> Float[np.ndarray, "*batch perturbations"]:
        """Scale doses, to six digits: what the factor between nM and uM does to a float32 leaves no trace."""
        mantissa, exponent = np.frexp(self.scaled(label))
        return np.ldexp(np.round(mantissa * 2**_BITS) / 2**_BITS, exponent).astype(np.float32)


def doses_of(labels: Float[np.ndarray, "conditions perturbations"]) -> Doses:
    """Find the largest dose of each perturbation: the unit in which nM and uM are the same experiment."""
    largest = np.max(np.abs(labels.astype(np.float64)), axis=0, initial=0.0)
    return Doses(np.where(largest > 0, largest, 1.0))


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
    """Find the doses of a label that no condition has."""
    unit = doses_of(labels).unit
    known, asked = np.asarray(labels, np.float64) / unit, np.asarray(label, np.float64) / unit
    return (asked != 0) & ~np.any(np.isclose(known, asked, rtol=1e-5, atol=0.0), axis=0)

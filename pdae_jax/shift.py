"""The perturbation shift: labels to displacements of the latents, `W (phi(a_t) - phi(a_s))`."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from pdae_jax.types import AnyArray


class Shift(NamedTuple):
    """`W` and `phi` as a pair of pure functions."""

    init: Callable  # (matrix [perturbations, latent]) -> params
    shift: Callable  # (params, label_from [..., perturbations], label_to [..., perturbations]) -> [..., latent]


def identity(label: Float[AnyArray, "*batch perturbations"]) -> Float[AnyArray, "*batch perturbations"]:
    """Dose-response in which the effect is proportional to the dose."""
    return label


def make_shift(dose_response: Callable = identity) -> Shift:
    """Additive shifts with a dose-response `phi` that keeps the control at zero, `phi(0) = 0`."""

    def init(matrix):
        return {"matrix": jnp.asarray(matrix)}

    def shift(params, label_from, label_to):
        return (dose_response(label_to) - dose_response(label_from)) @ params["matrix"]

    return Shift(init, shift)

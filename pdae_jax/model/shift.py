r"""The perturbation shift: labels to displacements, of the latents and of what the latents do not reach.

With :math:`\Delta\phi = \phi(a_t) - \phi(a_s)`, latents move by :math:`\Delta\phi W` and observations, after decoding,
by :math:`\Delta\phi V`, and by `u` from the control to any perturbed condition. `V` starts as the part of the linear
model's effects that the decoder's linear start cannot express, `u` as what all perturbed conditions have in common.
The gain of combinations in `phi` is that of the linear model and stays: there are far more single perturbations to
train on, and they know nothing of it. Where cells lie on a surface that the latents parametrise there is no `V`, no `u`
and no gain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax.design.effects import effective_label, is_perturbed


class Shift(NamedTuple):
    """`phi`, `W` and `V` as pure functions."""

    # (matrix [perturbations, latent], observed [perturbations, features], common [features], saturation) -> params
    init: Callable
    shift: Callable  # (params, label_from [..., perturbations], label_to [..., perturbations]) -> [..., latent]
    displace: Callable  # the same -> [..., features]


def make_shift(*, observed_effects: bool) -> Shift:
    """Make effects that vanish for the control. Without `observed_effects` they are of the latents only, and add up."""

    def init(matrix, observed, common, saturation):
        effects = {"matrix": jnp.asarray(matrix)}
        if not observed_effects:
            return effects
        return effects | {
            "observed": jnp.asarray(observed),
            "common": jnp.asarray(common),
            "saturation": jnp.asarray(saturation, jnp.float32),
        }

    def change(params, label_from, label_to):
        if not observed_effects:
            return label_to - label_from
        saturation = jax.lax.stop_gradient(params["saturation"])
        return effective_label(label_to, saturation) - effective_label(label_from, saturation)

    def shift(params, label_from, label_to):
        return change(params, label_from, label_to) @ params["matrix"]

    def displace(params, label_from, label_to):
        if not observed_effects:
            return 0.0
        entered = is_perturbed(label_to) - is_perturbed(label_from)
        return change(params, label_from, label_to) @ params["observed"] + entered * params["common"]

    return Shift(init, shift, displace)

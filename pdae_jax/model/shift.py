r"""The perturbation shift: labels to displacements, of the latents and of what the latents do not reach.

With :math:`\Delta\phi = \phi(a_t) - \phi(a_s)`, latents move by :math:`\Delta\phi W` and observations, after decoding,
by :math:`\Delta\phi V`, and by `u` from the control to any perturbed condition. `V` starts as the part of the linear
model's effects that the decoder's linear start cannot express, `u` as what all perturbed conditions have in common. The
gain of combinations in `phi` is that of the linear model and stays: there are far more single perturbations to train
on, and they know nothing of it. So do `interactions`, what combinations were seen to do beyond the sum of their parts:
observations move by their difference too. Where cells lie on a surface that the latents parametrise there is no `V`, no
`u` and no gain.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax.design.effects import effective_label, is_perturbed
from pdae_jax.model.interactions import Interactions, interactions_at
from pdae_jax.types import Params


class Shift(NamedTuple):
    """`phi`, `W` and `V` as pure functions."""

    # (matrix [perturbations, latent], observed [perturbations, features], common [features], saturation,
    # interactions=None) -> params
    init: Callable
    shift: Callable  # (params, label_from [..., perturbations], label_to [..., perturbations]) -> [..., latent]
    displace: Callable  # the same -> [..., features]


def make_shift(*, observed_effects: bool) -> Shift:
    """Make effects that vanish for the control. Without `observed_effects` they are of the latents only, and add up."""

    def init(matrix, observed, common, saturation, interactions=None):
        effects: Params = {"matrix": jnp.asarray(matrix)}
        if not observed_effects:
            return effects
        effects |= {
            "observed": jnp.asarray(observed),
            "common": jnp.asarray(common),
            "saturation": jnp.asarray(saturation, jnp.float32),
        }
        if interactions is not None:
            effects["interactions"] = {k: jnp.asarray(v, jnp.float32) for k, v in interactions._asdict().items()}
        return effects

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
        moved = change(params, label_from, label_to) @ params["observed"] + entered * params["common"]
        if "interactions" in params:
            found = Interactions(**jax.lax.stop_gradient(params["interactions"]))
            moved = moved + (interactions_at(found, label_to) - interactions_at(found, label_from))
        return moved

    return Shift(init, shift, displace)

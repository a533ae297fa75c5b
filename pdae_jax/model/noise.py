r"""Laws of the noise `eps` in `x = f(z, eps)`: what the latents do not explain of a cell, and where it goes.

``abducted``
    :math:`x = \mu(z) + s(z) \epsilon`. `mu` is deterministic; the noise of a source cell is read off the cell,
    :math:`\epsilon = (x - \mu(g(x))) / s(g(x))`, and goes with it to every target. Nothing of a cell is lost. It is
    the counterfactual of a structural model: abduction, action, prediction (Pearl, Causality, 2009, section 7.1).
``drawn``
    :math:`x = f(z, \epsilon)`, `eps` standard normal and drawn anew: the form of arXiv 2504.18522.

To add one: its name in `recipe.NOISES`, and here a function of the decoder in `LAWS`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pdae_jax.model.decoder import Decoder


class Carried(NamedTuple):
    """A law whose noise is read off the source cell and goes with it; functions of the decoder's parameters.

    Values are in the model's units; `size` has the size factors of cells where they are counts, else it is None.
    """

    abduct: Callable  # (params, x [..., features], z [..., latent], size [...]) -> eps [..., features]
    # (params, z [..., latent], eps, displaced [..., features], size) -> x; `displaced`: effects outside the latents
    apply: Callable


def location_scale(decoder: Decoder) -> Carried:
    """Take what a cell is off the centre, in units of the scale there."""

    def abduct(params, x, z, size):
        return (x - decoder.decode(params, None, z)) / decoder.scale(params, z)

    def apply(params, z, eps, displaced, size):
        return decoder.decode(params, None, z) + decoder.scale(params, z) * eps + displaced

    return Carried(abduct, apply)


#: Name of a law -> what makes it of a decoder; None: nothing is carried, the decoder draws.
LAWS: Mapping[str, Callable[[Decoder], Carried] | None] = {"abducted": location_scale, "drawn": None}

r"""The model in one sentence: encode a cell, shift its latent by the difference of two labels, decode with its noise.

With `mu` the deterministic decoder, `g` the encoder and `s > 0` a scale per feature,

.. math::
    z = g(x), \quad \epsilon = (x - \mu(z)) / s(z), \quad z' = z + \Delta\phi W

    y = \mu(z') + s(z') \epsilon + \Delta\phi V + (1_{a_t \ne 0} - 1_{a_s \ne 0}) u + r(a_t) - r(a_s), \quad
    \Delta\phi = \phi(a_t) - \phi(a_s)

and `y` is cut at the floor where data are non-negative. What the latents do not explain of a cell is abducted from it
and carried along (a location-scale noise model). With :math:`a_t = a_s` translation is the identity. With `mu` linear
and `s` constant it is the additive model, which is the start: encoder and decoder begin as a PCA map and its inverse,
`W`, `V` and `u` as the best linear model of the condition means (`linear`), split into what the latents reach and what
they do not; `r` is what combinations do beyond it (`interactions`), found before training and fixed. For cells without
noise on an invertible surface the residual vanishes, and what is left is the perturbation distribution autoencoder of
arXiv 2504.18522; there `V`, `u`, `r` and the gain are left out (``observed_effects=False``). The paper's own form,
without any of them and with the noise drawn, is ``noise="drawn"``.

What is identified. The span check of `guarantee` holds as it stands: shift and displacement are both linear in `phi`,
and `r` is regularisation, evaluated at labels that are identified. Latents and `W` are identified up to an orthogonal
map where `V` and the residual vanish; elsewhere they are the low-dimensional part of the effects that depends on the
state of the cell. The gain of combinations is determined by training combinations only, else it is 1.

What is assumed beyond that: the noise is independent of the perturbation, given the latent. A cell whose noise is
:math:`\epsilon` under one label would have had the same :math:`\epsilon` under another. It fails where a perturbation
changes the spread or the correlation of features in a way that the latents do not see. The residuals of training
conditions then have laws that differ by condition: `diagnostics.residual_laws`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pdae_jax.data.principal import principal_directions
from pdae_jax.design.effects import effective_label
from pdae_jax.model.decoder import Decoder, make_decoder
from pdae_jax.model.encoder import Encoder, make_encoder
from pdae_jax.model.interactions import Interactions, Sizes
from pdae_jax.model.linear import LinearModel
from pdae_jax.model.networks import with_share
from pdae_jax.model.noise import LAWS
from pdae_jax.model.shift import Shift, make_shift
from pdae_jax.types import AnyArray, Params


class Model(NamedTuple):
    """Pure functions of explicit parameters, and the sizes that fix their shapes."""

    init: Callable[[Array, "Start"], Params]  # (key, start) -> params
    encode: Callable[[Params, AnyArray], Array]  # (params, x [..., features]) -> z [..., latent]
    # (params, label_from [..., perturbations], label_to [..., perturbations]) -> [..., latent]
    shift: Callable[[Params, AnyArray, AnyArray], Array]
    # (params, key, z [..., latent]) -> x [..., features]; of carried noise the centre `mu`
    decode: Callable[[Params, Array, AnyArray], Array]
    # (params, key, x [..., features], label_from, label_to, size=None) -> x_new [..., features]
    translate: Callable[..., Array]
    # (params, x, z, size=None) -> eps [..., features], the noise of cells; None where it is drawn
    abduct: Callable[..., Array | None]
    # (params, key, z, eps, label_from, label_to, size=None) -> x_new, of cells already encoded, with their noise
    translate_latent: Callable[..., Array]
    num_features: int
    num_perturbations: int
    latent_dim: int
    noise: str  # one of `noise.LAWS`
    noise_dim: int  # of drawn noise; 0 where it is carried
    observed_effects: bool
    interactions: Sizes | None  # of the arrays of `r`; None: there are none

    @property
    def carries_noise(self) -> bool:
        """Tell whether the noise of a cell goes with it, and is not drawn."""
        return LAWS[self.noise] is not None


def make_model(
    num_features: int,
    num_perturbations: int,
    *,
    latent_dim: int,
    noise: str,
    noise_dim: int,
    observed_effects: bool,
    hidden: Sequence[int],
    activation: str,
    floor: Sequence[float] | Float[np.ndarray, " features"] | None = None,
    interactions: Sizes | None = None,
) -> Model:
    """Make the encoder, shift and decoder, joined; equal arguments give the same model, which is compiled once.

    `Recipe` has what `fit` takes for them.

    Args:
        num_features: d.
        num_perturbations: K.
        latent_dim: k.
        noise: a law of `noise.LAWS`: ``abducted`` from the source cell, or ``drawn``.
        noise_dim: dimension of drawn noise, 0 for a deterministic decoder; of no effect on carried noise.
        observed_effects: whether effects have a part outside the latents, and combinations a gain; of carried noise.
        hidden: widths of the encoder; the decoder mirrors them.
        activation: a key of `networks.ACTIVATIONS`.
        floor: smallest value of each feature, in the units the model sees; None for no floor.
        interactions: sizes of what combinations do beyond the sum of their parts; with observed effects only.

    Raises:
        ValueError: a size that is not positive, an unknown activation or noise, observed effects with drawn noise.
    """
    sizes = {"num_features": num_features, "num_perturbations": num_perturbations, "latent_dim": latent_dim}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}, but it must be at least 1.")
    if noise_dim < 0:
        raise ValueError(f"noise_dim={noise_dim}, but it must be 0 (deterministic decoder) or more.")
    if noise not in LAWS:
        raise ValueError(f"noise={noise!r} is not known; pass one of {', '.join(LAWS)}.")
    drawn = LAWS[noise] is None
    if drawn and observed_effects:
        raise ValueError(f"observed_effects move the cell's own noise; with {noise=} pass observed_effects=False.")
    widths = tuple(hidden)
    networks = _Networks(
        latent_dim,
        num_features,
        noise,
        noise_dim if drawn else 0,
        observed_effects,
        widths,
        activation,
        interactions if observed_effects else None,
    )
    return _join(networks, num_perturbations, None if floor is None else tuple(np.asarray(floor).tolist()))


class _Networks(NamedTuple):
    """The arguments that fix encoder, decoder and shift."""

    latent_dim: int
    num_features: int
    noise: str
    noise_dim: int
    observed_effects: bool
    hidden: tuple[int, ...]
    activation: str
    interactions: Sizes | None

    def encoder(self) -> Encoder:
        return make_encoder(self.num_features, self.latent_dim, hidden=self.hidden, activation=self.activation)

    def decoder(self) -> Decoder:
        return make_decoder(
            self.latent_dim,
            self.num_features,
            has_scale=LAWS[self.noise] is not None,
            noise_dim=self.noise_dim,
            hidden=self.hidden[::-1],
            activation=self.activation,
        )

    def shift(self) -> Shift:
        return make_shift(observed_effects=self.observed_effects)


@functools.lru_cache(maxsize=64)
def _join(networks: _Networks, num_perturbations: int, floor: tuple[float, ...] | None) -> Model:
    encoder, decoder, shift = networks.encoder(), networks.decoder(), networks.shift()
    law, lowest = LAWS[networks.noise], None if floor is None else np.asarray(floor, np.float32)
    carried = None if law is None else law(decoder)

    def init(key, start):
        key_encoder, key_decoder = jax.random.split(key)
        return {
            "encoder": with_share(encoder.init(key_encoder, start.encoder_kernel, start.encoder_bias), start.nets),
            "shift": shift.init(start.shift_matrix, start.observed, start.common, start.saturation, start.interactions),
            "decoder": with_share(decoder.init(key_decoder, start.decoder_kernel, start.decoder_bias), start.nets),
        }

    def encode(params, x):
        return encoder.encode(params["encoder"], x)

    def apply_shift(params, label_from, label_to):
        return shift.shift(params["shift"], label_from, label_to)

    def above_floor(x):
        return x if lowest is None else jnp.maximum(x, lowest)

    def decode(params, key, z):
        centre = decoder.decode(params["decoder"], key, z)
        # of carried noise the centre is no cell: the floor comes after the noise
        return above_floor(centre) if carried is None else centre

    def abduct(params, x, z, size=None):
        return None if carried is None else carried.abduct(params["decoder"], x, z, size)

    def translate_latent(params, key, z, eps, label_from, label_to, size=None):
        moved = z + apply_shift(params, label_from, label_to)
        if carried is None:
            return decode(params, key, moved)
        displaced = shift.displace(params["shift"], label_from, label_to)
        return above_floor(carried.apply(params["decoder"], moved, eps, displaced, size))

    def translate(params, key, x, label_from, label_to, size=None):
        z = encode(params, x)
        return translate_latent(params, key, z, abduct(params, x, z, size), label_from, label_to, size)

    return Model(
        init=init,
        encode=encode,
        shift=apply_shift,
        decode=decode,
        translate=translate,
        abduct=abduct,
        translate_latent=translate_latent,
        num_features=networks.num_features,
        num_perturbations=num_perturbations,
        latent_dim=networks.latent_dim,
        noise=networks.noise,
        noise_dim=networks.noise_dim,
        observed_effects=networks.observed_effects,
        interactions=networks.interactions,
    )


class Start(NamedTuple):
    """The linear model as parameters: what every fit starts from."""

    encoder_kernel: Float[AnyArray, "features latent"]
    encoder_bias: Float[AnyArray, " latent"]
    decoder_kernel: Float[AnyArray, "latent_and_noise features"]
    decoder_bias: Float[AnyArray, " features"]
    shift_matrix: Float[AnyArray, "perturbations latent"]
    observed: Float[AnyArray, "perturbations features"]  # effects outside the latents' reach
    common: Float[AnyArray, " features"]  # of all perturbed conditions
    saturation: float | Float[AnyArray, ""]
    nets: float | Float[AnyArray, ""] = 1.0  # times the small random output that the nets begin with
    interactions: Interactions | None = None  # None: the model has none


def linear_start(
    x: Float[np.ndarray, "cells features"],
    label: Float[np.ndarray, "cells perturbations"],
    linear: LinearModel,
    latent_dim: int,
    *,
    noise_dim: int = 0,
    nets: float = 1.0,
) -> Start:
    """Start from the PCA of the cells, whitened within conditions; the linear model's effects split into `W` and `V`.

    Base latents, shifts taken off, start with mean zero and identity covariance, as the theory has them. Principal
    directions beyond the latent ones start as drawn noise, at their own spread. Pass a
    sample with equally many cells of each condition, else large conditions dominate. The nets start near zero, 0 of
    `nets` is nothing at all: what they add to the linear model grows with the latents.
    """
    x = np.asarray(x, np.result_type(x, np.float32))
    mean = x.mean(axis=0)
    spread, directions = principal_directions(x - mean, latent_dim + noise_dim)
    missing = max(0, latent_dim + noise_dim - directions.shape[0])
    if missing:  # latents or noise beyond the number of features start switched off
        directions, spread = np.pad(directions, ((0, missing), (0, 0))), np.pad(spread, (0, missing))
    spread = spread / len(x) ** 0.5
    basis, drawn = directions[:latent_dim], directions[latent_dim : latent_dim + noise_dim]
    scores = (x - mean) @ basis.T
    effects = linear.effects.astype(x.dtype)
    moved = effective_label(label, linear.saturation).astype(x.dtype) @ effects @ basis.T
    centre = np.mean(scores - moved, axis=0)
    whiten, colour = _whitening(scores - moved - centre)
    return Start(
        encoder_kernel=basis.T @ whiten,
        encoder_bias=-(mean @ basis.T + centre) @ whiten,
        decoder_kernel=np.concatenate([colour @ basis, drawn * spread[latent_dim : latent_dim + noise_dim, None]]),
        decoder_bias=mean + centre @ basis,
        shift_matrix=effects @ basis.T @ whiten,
        observed=effects - effects @ basis.T @ basis,
        common=linear.common.astype(x.dtype),
        saturation=linear.saturation,
        nets=nets,
    )


def _whitening(residual: Float[np.ndarray, "cells latent"]) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric maps to and from identity covariance; directions without spread stay as they are."""
    values, vectors = np.linalg.eigh(residual.T @ residual / len(residual))
    scale = np.sqrt(np.where(values > 1e-8 * np.max(values), values, 1.0)).astype(values.dtype)
    return (vectors / scale) @ vectors.T, (vectors * scale) @ vectors.T

r"""The model in one sentence: encode a cell, shift its latent by the difference of two labels, decode with noise.

.. math:: P_{s \to t} = \text{law of } f\big(g(X_s) + W(\phi(a_t) - \phi(a_s)), \varepsilon\big)

The default start is the additive model: encoder and decoder begin as a PCA map and its inverse, and `W` as the
least-squares regression of latents on labels. Random starts have bad local optima, in which a distant condition gets a
chart of its own that only held-out combinations reveal; from the linear, globally consistent start the additive
model is the worst case.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from pdae_jax.decoder import make_decoder
from pdae_jax.encoder import make_encoder
from pdae_jax.shift import identity, make_shift
from pdae_jax.types import AnyArray


class Model(NamedTuple):
    """Pure functions of explicit parameters, and the sizes that fix their shapes."""

    init: Callable  # (key, x [cells, features], label [cells, perturbations]) -> params, by the next two
    linear_start: Callable  # (x, label) -> LinearStart
    init_from: Callable  # (key, LinearStart) -> params
    encode: Callable  # (params, x [..., features]) -> z [..., latent]
    shift: Callable  # (params, label_from [..., perturbations], label_to [..., perturbations]) -> [..., latent]
    decode: Callable  # (params, key, z [..., latent]) -> x [..., features]
    translate: Callable  # (params, key, x [..., features], label_from, label_to) -> x_new [..., features]
    num_features: int
    num_perturbations: int
    latent_dim: int
    noise_dim: int


def make_model(
    num_features: int,
    num_perturbations: int,
    *,
    latent_dim: int,
    noise_dim: int = 0,
    hidden: Sequence[int] = (128, 128, 128),
    activation: str = "relu",
    linear_skip: bool = True,
    dose_response: Callable = identity,
    floor: np.ndarray | None = None,
) -> Model:
    """Encoder, shift and stochastic decoder, joined.

    Args:
        num_features: d.
        num_perturbations: K.
        latent_dim: k.
        noise_dim: dimension of the decoder's noise, 0 for a deterministic decoder.
        hidden: widths of the encoder; the decoder mirrors them.
        activation: a key of `networks.ACTIVATIONS`.
        linear_skip: encoder and decoder as linear map plus MLP, started at the additive model; False: plain MLPs from
            a random start, `W` random too.
        dose_response: `phi`, label to effective label, zero at zero; of NumPy and of JAX arrays.
        floor: smallest value per feature, ``[features]``, in the units the model sees; None for no floor.

    Raises:
        ValueError: a size that is not positive, or an unknown activation.
    """
    sizes = {"num_features": num_features, "num_perturbations": num_perturbations, "latent_dim": latent_dim}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}, but it must be at least 1.")
    if noise_dim < 0:
        raise ValueError(f"noise_dim={noise_dim}, but it must be 0 (deterministic decoder) or more.")
    nets = {"activation": activation, "linear_skip": linear_skip}
    encoder = make_encoder(num_features, latent_dim, hidden=hidden, **nets)
    decoder = make_decoder(
        latent_dim, num_features, noise_dim=noise_dim, hidden=tuple(reversed(hidden)), floor=floor, **nets
    )
    shift = make_shift(dose_response)

    def start_at(x, label):
        return linear_start(x, dose_response(label), latent_dim, noise_dim)

    def init_from(key, start):
        key_encoder, key_decoder, key_shift = jax.random.split(key, 3)
        matrix = start.shift_matrix
        if not linear_skip:
            matrix = jax.random.normal(key_shift, matrix.shape) / jnp.sqrt(latent_dim)
        return {
            "encoder": encoder.init(key_encoder, start.encoder_kernel, start.encoder_bias),
            "shift": shift.init(matrix),
            "decoder": decoder.init(key_decoder, start.decoder_kernel, start.decoder_bias),
        }

    def init(key, x, label):
        return init_from(key, start_at(x, label))

    def encode(params, x):
        return encoder.encode(params["encoder"], x)

    def apply_shift(params, label_from, label_to):
        return shift.shift(params["shift"], label_from, label_to)

    def decode(params, key, z):
        return decoder.decode(params["decoder"], key, z)

    def translate(params, key, x, label_from, label_to):
        return decode(params, key, encode(params, x) + apply_shift(params, label_from, label_to))

    return Model(
        init=init,
        linear_start=start_at,
        init_from=init_from,
        encode=encode,
        shift=apply_shift,
        decode=decode,
        translate=translate,
        num_features=num_features,
        num_perturbations=num_perturbations,
        latent_dim=latent_dim,
        noise_dim=noise_dim,
    )


class LinearStart(NamedTuple):
    """The additive model as linear maps."""

    encoder_kernel: Float[AnyArray, "features latent"]
    encoder_bias: Float[AnyArray, " latent"]
    decoder_kernel: Float[AnyArray, "latent_and_noise features"]
    decoder_bias: Float[AnyArray, " features"]
    shift_matrix: Float[AnyArray, "perturbations latent"]


def linear_start(
    x: Float[AnyArray, "cells features"], label: Float[AnyArray, "cells perturbations"], latent_dim: int, noise_dim: int
) -> LinearStart:
    """PCA of the cells, whitened within conditions; `W` by least squares of latents on labels.

    Base latents, shifts taken off, start with mean zero and identity covariance, as the theory has them. Principal
    directions beyond the latent ones start as the decoder's noise, at their own spread. Pass a sample with equally
    many cells of each condition, else large conditions dominate. NumPy arrays are computed with NumPy and SciPy: to
    compile this takes longer than to compute it.
    """
    # SciPy's keeps single precision, where NumPy's would compute in double: twice as fast for a thousand features
    xp, svd = (np, scipy.linalg.svd) if isinstance(x, np.ndarray) else (jnp, jnp.linalg.svd)
    x = xp.asarray(x, xp.result_type(x, np.float32))
    label = xp.asarray(label, x.dtype)
    mean = xp.mean(x, axis=0)
    _, spread, directions = svd(x - mean, full_matrices=False)
    missing = max(0, latent_dim + noise_dim - directions.shape[0])
    # latents or noise beyond the number of features start switched off
    directions = xp.pad(directions, ((0, missing), (0, 0)))
    spread = xp.pad(spread, (0, missing)) / len(x) ** 0.5
    basis, noise = directions[:latent_dim], directions[latent_dim : latent_dim + noise_dim]
    scores = (x - mean) @ basis.T
    design = xp.concatenate([xp.ones((len(x), 1), x.dtype), label], axis=1)
    # labels that are collinear but for their rounding are collinear: NumPy's own limit is that of double precision
    rcond = float(np.finfo(x.dtype).eps) * max(design.shape)
    coefficients = xp.linalg.lstsq(design, scores, rcond=rcond)[0]
    centre, slopes = coefficients[0], coefficients[1:]
    whiten, colour = _whitening(xp, scores - design @ coefficients)
    return LinearStart(
        encoder_kernel=basis.T @ whiten,
        encoder_bias=-(mean @ basis.T + centre) @ whiten,
        decoder_kernel=xp.concatenate([colour @ basis, noise * spread[latent_dim : latent_dim + noise_dim, None]]),
        decoder_bias=mean + centre @ basis,
        shift_matrix=slopes @ whiten,
    )


def _whitening(xp: Any, residual: Float[AnyArray, "cells latent"]) -> tuple[AnyArray, AnyArray]:
    """Symmetric maps to and from identity covariance; directions without spread stay as they are."""
    values, vectors = xp.linalg.eigh(residual.T @ residual / len(residual))
    scale = xp.sqrt(xp.where(values > 1e-8 * xp.max(values), values, 1.0)).astype(values.dtype)
    return (vectors / scale) @ vectors.T, (vectors * scale) @ vectors.T
